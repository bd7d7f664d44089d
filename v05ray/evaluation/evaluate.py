r"""Accuracy on held-out prompts: greedy, mean@k, pass@k and maj@k, with standard errors.

A response is right if its verdict is `correct`; every other verdict, a verifier's failure too, counts as wrong. With n
samples of a prompt, c of them right, and N prompts:

    mean@n = 1/N sum c/n
    pass@k = 1/N sum 1 - C(n-c, k) / C(n, k)    unbiased for the chance that one of k is right (Chen et al. 2021, Eq. 1)
    maj@n  = 1/N sum (share of right samples among those that gave the most frequent answer; ties: mean over the tied)
    stderr = sd / sqrt(N), over prompts, with N - 1 under the root of sd; left out where N = 1

Names: `val/SOURCE/greedy`, `val/SOURCE/mean_at_8`, ... and `val/all/...` over the prompts of all sources (MLflow
refuses `@` in names, and in a source's name what it refuses becomes `_`).
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, sqrt
from statistics import fmean, stdev
from typing import Literal

from v05ray.environments import play_out
from v05ray.errors import ConfigError
from v05ray.ports import Environment
from v05ray.rewards.votes import answer_key, canonical
from v05ray.seeding import derive_seed
from v05ray.tracking.naming import name_part
from v05ray.types import (
    FAILURES,
    ComponentScore,
    DrawRequest,
    FinishReason,
    Prompt,
    Rollout,
    Sampling,
    ScoredRollout,
    Verdict,
)

DrawFunction = Callable[[DrawRequest], Awaitable[list[Rollout]]]
"""All rollouts of a request, one turn each, in the order of its sample indices: `Scheduler.draw`, `Generator.draw`."""

Kind = Literal["greedy", "sampled"]
Draw = tuple[str, Kind]
"""One request of an evaluation: prompt id, and which of its two."""


@dataclass(frozen=True, slots=True)
class EvalRow:
    """One scored response of an evaluation."""

    step: int
    prompt_id: str
    source: str
    kind: Kind
    sample_index: int
    text: str
    answer_key: str
    """What votes in maj@k; see `rewards.votes.answer_key`."""
    reward: float
    verdict: Verdict
    num_tokens: int
    finish_reason: FinishReason
    policy_version: int
    verifier: str = ""
    """Name of the verifier that judged."""
    extracted: str | None = None
    """The answer as the verifier read it; None where it found none, or does not say."""
    message: str = ""
    """Why there is no verdict; empty where there is one."""
    components: tuple[ComponentScore, ...] = ()
    """Of several verifiers each one's score."""

    @property
    def correct(self) -> bool:
        """Whether the verifier said so."""
        return self.verdict == "correct"


@dataclass(frozen=True, slots=True)
class EvalReport:
    """An evaluation's metrics and responses."""

    metrics: Mapping[str, float]
    rows: tuple[EvalRow, ...]
    """Per prompt in the given order: the greedy response, then the samples."""

    @property
    def sampled_reward(self) -> float | None:
        """Mean reward in [-1, 1] of the samples, as many of each prompt; None where there are none.

        Not the accuracy: partial and combined rewards are what the first prior has to predict.
        """
        rewards = [row.reward for row in self.rows if row.kind == "sampled"]
        return fmean(rewards) if rewards else None


async def evaluate(
    prompts: Sequence[Prompt],
    draw: DrawFunction,
    environment: Environment,
    *,
    samples_per_prompt: int,
    sampling: Sampling,
    seed: int,
    step: int,
    known: Mapping[Draw, Sequence[EvalRow]] | None = None,
    keep: Callable[[Sequence[EvalRow]], object] = lambda rows: None,
    finish_s: float = 0.0,
) -> EvalReport:
    """One greedy response and `samples_per_prompt` (>= 0) sampled ones per prompt, all drawn and scored concurrently.

    `environment` takes each to its end, over as many turns as it wants; a row has the last turn's text and finish
    reason.
    The seeds of samples depend on `seed` and the prompt but not on `step`: two evaluations of a run differ by the
    policy alone. `known` holds rows of an earlier, interrupted evaluation of the same: they are not drawn again. `keep`
    gets the rows of each new draw once all of them are scored. When it is cancelled, or one draw fails, what was drawn
    already is still scored and kept, for `finish_s` at most. Raises what `draw` and `keep` raise; `ConfigError` for
    no prompts, or a source named `all`.
    """
    if not prompts:
        raise ConfigError("there are no held-out prompts to evaluate on; give data.eval")
    if any(prompt.source == "all" for prompt in prompts):
        raise ConfigError("a data source must not be named 'all', which means all sources together; rename it")
    if samples_per_prompt < 0:
        raise ConfigError(f"evaluation.samples_per_prompt must be at least 0, got {samples_per_prompt}")
    async with asyncio.TaskGroup() as tasks:
        jobs = [
            tasks.create_task(
                _prompt_rows(prompt, kind, request, draw, environment, step, (known or {}).get, keep, finish_s)
            )
            for prompt in prompts
            for kind, request in _requests(prompt, samples_per_prompt, sampling, seed)
        ]
    rows = tuple(row for job in jobs for row in job.result())
    return EvalReport(summarise(rows), rows)


def _requests(prompt: Prompt, num_samples: int, sampling: Sampling, seed: int) -> list[tuple[Kind, DrawRequest]]:
    greedy = replace(sampling, temperature=0.0, top_p=1.0)
    requests: list[tuple[Kind, DrawRequest]] = [
        ("greedy", DrawRequest(prompt.prompt_id, prompt.token_ids, (0,), (seed,), greedy))
    ]
    if num_samples:
        indices = tuple(range(num_samples))
        seeds = tuple(derive_seed("eval", seed, prompt.prompt_id, i) for i in indices)
        requests.append(("sampled", DrawRequest(prompt.prompt_id, prompt.token_ids, indices, seeds, sampling)))
    return requests


async def _prompt_rows(
    prompt: Prompt,
    kind: Kind,
    request: DrawRequest,
    draw: DrawFunction,
    environment: Environment,
    step: int,
    known: Callable[[Draw], Sequence[EvalRow] | None],
    keep: Callable[[Sequence[EvalRow]], object],
    finish_s: float,
) -> list[EvalRow]:
    if (earlier := known((prompt.prompt_id, kind))) is not None:
        return list(earlier)
    rollouts = await draw(request)
    judging = asyncio.ensure_future(_judged(prompt, kind, request, rollouts, draw, environment, step, keep))
    try:
        return await asyncio.shield(judging)
    except asyncio.CancelledError:
        # A verdict may take seconds, its response has taken longer.
        await asyncio.wait({judging}, timeout=finish_s)
        judging.cancel()
        raise


async def _judged(
    prompt: Prompt,
    kind: Kind,
    request: DrawRequest,
    rollouts: Sequence[Rollout],
    draw: DrawFunction,
    environment: Environment,
    step: int,
    keep: Callable[[Sequence[EvalRow]], object],
) -> list[EvalRow]:
    scored = await play_out(prompt, request, rollouts, environment, lambda later, holder: draw(later))
    rows = [_row(prompt, one, kind, step) for one in scored]
    keep(rows)
    return rows


def _row(prompt: Prompt, scored: ScoredRollout, kind: Kind, step: int) -> EvalRow:
    rollout = scored.rollout
    return EvalRow(
        step=step,
        prompt_id=prompt.prompt_id,
        source=prompt.source,
        kind=kind,
        sample_index=rollout.sample_index,
        text=rollout.text,
        answer_key=answer_key(rollout.text),
        reward=scored.reward,
        verdict=scored.verdict,
        num_tokens=rollout.num_tokens,
        finish_reason=rollout.finish_reason,
        policy_version=rollout.policy_version,
        verifier=scored.verifier,
        extracted=scored.extracted,
        message=scored.message,
        components=scored.components,
    )


def summarise(rows: Sequence[EvalRow]) -> dict[str, float]:
    """The metrics of the module's docstring from scored responses, by source and over all."""
    by_source: dict[str, list[EvalRow]] = defaultdict(list)
    for row in rows:
        by_source[row.source].append(row)
        by_source["all"].append(row)
    return {
        f"val/{name_part(source)}/{name}": value
        for source, of_source in sorted(by_source.items())
        for name, value in _source_metrics(of_source).items()
    }


def _source_metrics(rows: Sequence[EvalRow]) -> dict[str, float]:
    greedy = [row for row in rows if row.kind == "greedy"]
    metrics = {
        **_with_stderr("greedy", [float(row.correct) for row in greedy]),
        "greedy_reward": fmean(row.reward for row in greedy),
        "num_prompts": float(len(greedy)),
        **_components("greedy", greedy),
        **_lengths("response_length", greedy),
    }
    samples: dict[str, list[EvalRow]] = defaultdict(list)
    for row in rows:
        if row.kind == "sampled":
            samples[row.prompt_id].append(row)
    if samples:
        metrics |= _sampled_metrics(list(samples.values()))
    return metrics


def _sampled_metrics(prompts: Sequence[Sequence[EvalRow]]) -> dict[str, float]:
    """prompts[N][n], all of the same n."""
    n = len(prompts[0])
    num_correct = [sum(row.correct for row in rows) for rows in prompts]
    metrics = {
        **_with_stderr(f"mean_at_{n}", [c / n for c in num_correct]),
        **_with_stderr(
            f"maj_at_{n}", [majority([r.answer_key for r in rows], [r.correct for r in rows]) for rows in prompts]
        ),
        f"reward_mean_at_{n}": fmean(row.reward for rows in prompts for row in rows),
        **_components(f"mean_at_{n}", [row for rows in prompts for row in rows]),
        **_lengths("response_length_sampled", [row for rows in prompts for row in rows]),
    }
    for k in _ks(n):
        metrics |= _with_stderr(f"pass_at_{k}", [pass_at_k(n, c, k) for c in num_correct])
    return metrics


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that k of the n samples, taken without replacement, hold a right one.

    0 <= num_correct <= num_samples, 1 <= k <= num_samples; raises `ValueError` otherwise.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(
            f"pass@{k} needs 0 <= correct <= samples and 1 <= k <= samples, got {num_correct} of {num_samples}"
        )
    return 1 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def majority(keys: Sequence[str], correct: Sequence[bool]) -> float:
    r"""Expected accuracy of the most frequent answer in [0, 1]; ties are broken evenly. keys[n], correct[n], n >= 1.

    Answers that are written otherwise and equal vote together: `0.5` and `\frac{1}{2}`.
    """
    votes: dict[str, list[bool]] = defaultdict(list)
    for key, right in zip(keys, correct, strict=True):
        votes[canonical(key)].append(right)
    most = max(len(of_key) for of_key in votes.values())
    return fmean(fmean(of_key) for of_key in votes.values() if len(of_key) == most)


def _ks(n: int) -> list[int]:
    """1, 2, 4, ... and n itself."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def _with_stderr(name: str, values: Sequence[float]) -> dict[str, float]:
    metrics = {name: fmean(values)}
    if len(values) > 1:
        metrics[f"{name}_stderr"] = stdev(values) / sqrt(len(values))
    return metrics


def _components(name: str, rows: Sequence[EvalRow]) -> dict[str, float]:
    """`rewards/LABEL/NAME`: mean reward of each of several verifiers, without its weight, where it judged."""
    of_label: dict[str, list[float]] = defaultdict(list)
    for component in (component for row in rows for component in row.components):
        if component.verdict not in FAILURES:
            of_label[component.label].append(component.reward)
    return {f"rewards/{name_part(label)}/{name}": fmean(rewards) for label, rewards in of_label.items()}


def _lengths(name: str, rows: Sequence[EvalRow]) -> dict[str, float]:
    """Mean length in tokens, and the share of responses cut off at the limit (verl's `clip_ratio`)."""
    return {
        f"{name}/mean": fmean(row.num_tokens for row in rows),
        f"{name}/clip_ratio": fmean(row.finish_reason == "length" for row in rows),
    }
