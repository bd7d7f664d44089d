"""Judges that are made of others: one per source, or several whose rewards are combined. Standard library only.

A judge gives one verdict as the worker sends it: `reward`, `verdict`, `message`, `extracted`, `retiring`; one of
several verifiers also `components`, a [label, reward, verdict] for each.
"""

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Any

from v05ray.errors import ConfigError
from v05ray.types import FAILURES, FinishReason, Prompt

Judge = Callable[[Prompt, str, FinishReason], dict[str, Any]]


def build_judge(
    spec: Any,
    single: Callable[[str, Mapping[str, Any]], Judge],
    begin: Callable[[str], None] = lambda label: None,
) -> Judge:
    """The judge that a `VerifierSpec`, as JSON values, asks for.

    Args:
        spec: `{name, **options}`, `{name: by_source, default, sources}` or a list of components.
        single: makes the judge of one verifier of the registry; raises `ConfigError`.
        begin: gets the label of each verifier of a list before it judges, so that it is known which one hangs.
    """
    if isinstance(spec, list):
        return _weighted([(one["label"], one["weight"], _component(one, single)) for one in spec], begin)
    options = {name: value for name, value in spec.items() if name != "name"}
    if spec["name"] != "by_source":
        return single(spec["name"], options)
    otherwise = build_judge(options["default"], single, begin)
    of_source = {name: build_judge(one, single, begin) for name, one in options["sources"].items()}
    return lambda prompt, response, finish: of_source.get(prompt.source, otherwise)(prompt, response, finish)


def _component(spec: Mapping[str, Any], single: Callable[[str, Mapping[str, Any]], Judge]) -> Judge:
    options = {name: value for name, value in spec.items() if name not in ("name", "weight", "label")}
    try:
        return single(spec["name"], options)
    except ConfigError as error:
        raise ConfigError(f"{spec['label']}: {error}") from error


def _weighted(components: Sequence[tuple[str, float, Judge]], begin: Callable[[str], None]) -> Judge:
    weights = [weight for _, weight, _ in components]

    def judge(prompt: Prompt, response: str, finish: FinishReason) -> dict[str, Any]:
        replies = []
        for label, _, judge_one in components:
            begin(label)
            replies.append((label, judge_one(prompt, response, finish)))
        return combined(replies, weights)

    return judge


def combined(replies: Sequence[tuple[str, Mapping[str, Any]]], weights: Sequence[float]) -> dict[str, Any]:
    """One verdict out of those of several verifiers, by label: r = sum(w_i r_i) / sum(|w_i|), in [-1, 1] as each r_i.

    The first one's says whether the response is right, and gives the extracted answer. Where any of them failed, the
    whole is that failure with reward -1, and the message names the first that did.
    """
    _, first = replies[0]
    reply = {
        "reward": -1.0,
        "verdict": first["verdict"],
        "message": "",
        "extracted": first["extracted"],
        "retiring": any(one["retiring"] for _, one in replies),
        "components": [[label, one["reward"], one["verdict"]] for label, one in replies],
    }
    for label, one in replies:
        if one["verdict"] in FAILURES:
            return reply | {"verdict": one["verdict"], "message": f"{label}: {one['message']}"}
    total = fsum(abs(weight) for weight in weights)
    reward = fsum(weight * one["reward"] for weight, (_, one) in zip(weights, replies, strict=True)) / total
    return reply | {"reward": max(-1.0, min(1.0, reward))}
