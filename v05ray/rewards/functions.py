"""Reward functions in the forms that other trainers call them in, each as a verifier of ours.

    ours    f(prompt, response)                                        -> bool, number in [-1, 1], or `Judged`
    trl     f(prompts, completions, **columns)                         -> list of numbers; may be async
    verl    f(data_source, solution_str, ground_truth, extra_info)     -> number, or a mapping with `score`
    slime   f(args, sample)                                            -> the same; may be async

The form is known by the names of the parameters; what has none of these signatures is refused with this list. What the
numbers mean is not known by the signature, so the three borrowed forms need `scale`.
"""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

from v05ray.errors import ConfigError
from v05ray.registry import suggest
from v05ray.rewards.judged import Judged
from v05ray.types import Prompt

Form = Literal["ours", "trl", "verl", "slime"]
FORMS: Mapping[Form, str] = {
    "ours": "f(prompt, response)",
    "trl": "f(prompts, completions, **columns)",
    "verl": "f(data_source, solution_str, ground_truth, extra_info)",
    "slime": "f(args, sample)",
}
SCALES: Mapping[str, str] = {
    "zero_one": "0 is wrong and 1 right",
    "signed": "-1 is wrong and 1 right",
    "as_is": "any number, cut to [-1, 1]",
}
_REFERENCE_NAMES = ("answer", "answers", "ground_truth", "solution", "target", "label", "gold")
"""Names of columns under which TRL's functions look for the reference answer."""


def form_of(function: Callable[..., Any], name: str) -> Form:
    """The form of a reward function; raises `ConfigError` with the four forms where it has none of them."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name!r} has no signature to be read: {error}; {_forms_listed()}") from error
    if "completions" in parameters:
        return "trl"
    if "solution_str" in parameters and "ground_truth" in parameters:
        return "verl"
    if {"args", "sample"} <= parameters.keys():
        return "slime"
    if _takes_two(parameters.values()):
        return "ours"
    raise ConfigError(f"{name!r} is called with ({', '.join(map(str, parameters.values()))}); {_forms_listed()}")


def _takes_two(parameters: Any) -> bool:
    """Whether two positional arguments are what it needs and takes."""
    kinds = inspect.Parameter
    positional = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    spread = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
    required = [p for p in positional if p.default is kinds.empty]
    named = [p for p in parameters if p.kind is kinds.KEYWORD_ONLY and p.default is kinds.empty]
    return not named and len(required) <= 2 and (len(positional) >= 2 or spread)


def _forms_listed() -> str:
    return "a reward function has one of the forms " + "; ".join(f"{form}: {call}" for form, call in FORMS.items())


def adapt(
    function: Callable[..., Any],
    name: str,
    *,
    scale: str | None,
    completions: str,
    arguments: Mapping[str, Any],
) -> Callable[[Prompt, str], Judged]:
    """A verifier out of a reward function of any form; raises `ConfigError` for what cannot be called, or not read.

    `arguments` are slime's `args`; `completions` says whether TRL's functions get texts or lists of one message.
    """
    form = form_of(function, name)
    if scale is None:
        if form != "ours":
            listed = ", ".join(f"{word} ({meaning})" for word, meaning in SCALES.items())
            raise ConfigError(
                f"{name!r} is a reward function of {form}'s form, whose scale cannot be known; set scale: {listed}"
            )
        scale = "signed"
    elif scale not in SCALES:
        raise ConfigError(f"scale {scale!r} is not known{suggest(scale, SCALES)}")
    if completions not in ("text", "messages"):
        raise ConfigError(f"completions {completions!r} is not known{suggest(completions, ('text', 'messages'))}")
    call = {
        "ours": lambda prompt, response: function(prompt, response),
        "trl": _Trl(function, completions),
        "verl": _Verl(function),
        "slime": _Slime(function, arguments),
    }[form]
    loop: list[asyncio.AbstractEventLoop] = []

    def verify(prompt: Prompt, response: str) -> Judged:
        result = call(prompt, response)
        if inspect.isawaitable(result):
            if not loop:
                loop.append(asyncio.new_event_loop())
            result = loop[0].run_until_complete(result)
        extracted = None
        if form == "trl":
            result = _single(result)
        elif form in ("verl", "slime") and isinstance(result, Mapping):
            result, extracted = _from_mapping(result)
        elif isinstance(result, Judged):
            result, extracted = result.reward, result.extracted
        return Judged(on_our_scale(result, scale), extracted)

    return verify


def on_our_scale(value: Any, scale: str) -> bool | float:
    """A function's number as a reward in [-1, 1]; raises `TypeError` or `ValueError` for what does not fit `scale`."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, bool):
        return plain
    if not isinstance(plain, int | float):
        raise TypeError(f"a reward function returns a bool or a number, got {value!r:.80}")
    if math.isnan(plain):
        raise ValueError("a reward function returned NaN")
    if scale == "as_is":
        return max(-1.0, min(1.0, float(plain)))
    low = 0 if scale == "zero_one" else -1
    if not low <= plain <= 1:
        raise ValueError(f"a reward on the scale {scale} lies in [{low}, 1], got {plain!r:.80}; see `scale`")
    return 2.0 * plain - 1.0 if scale == "zero_one" else float(plain)


def _single(result: Any) -> Any:
    if not isinstance(result, Sequence) or isinstance(result, str) or len(result) != 1:
        raise TypeError(
            f"a reward function of trl's form returns a list of one number for one completion, got {result!r:.80}"
        )
    if result[0] is None:
        raise ValueError("a reward function of trl's form returned None for its one completion")
    return result[0]


def _from_mapping(result: Mapping[str, Any]) -> tuple[Any, str | None]:
    score = next((result[key] for key in ("score", "reward") if key in result), None)
    if score is None:
        raise TypeError(f"a reward function's mapping needs `score`, got keys {', '.join(map(str, result))}")
    read = next((result[key] for key in ("pred", "extracted", "answer") if result.get(key) is not None), None)
    return score, None if read is None else str(read)


class _Accepted:
    """Passes the keywords that a function takes, all of them where it takes any."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters
        self._names = set(parameters)
        self._any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())

    def takes(self, name: str) -> bool:
        """Whether the function names it."""
        return name in self._names

    def __call__(self, keywords: Mapping[str, Any]) -> Any:
        return self.function(**{name: value for name, value in keywords.items() if self._any or name in self._names})


class _Trl:
    """Columns are the prompt's metadata, and the reference answer under each of its usual names that is asked for."""

    def __init__(self, function: Callable[..., Any], completions: str) -> None:
        self._accepted, self._completions = _Accepted(function), completions

    def __call__(self, prompt: Prompt, response: str) -> Any:
        asked, given = prompt.text, response
        prompts: list[Any] = [asked]
        completions: list[Any] = [given]
        if self._completions == "messages":
            prompts = [[{"role": "user", "content": asked}]]
            completions = [[{"role": "assistant", "content": given}]]
        columns: dict[str, Any] = {name: [value] for name, value in prompt.metadata.items()}
        for name in _REFERENCE_NAMES:
            if name == "answer" or self._accepted.takes(name):
                columns.setdefault(name, [prompt.answer])
        columns.setdefault("data_source", [prompt.source])
        return self._accepted({**columns, "prompts": prompts, "completions": completions})


class _Verl:
    def __init__(self, function: Callable[..., Any]) -> None:
        self._accepted = _Accepted(function)

    def __call__(self, prompt: Prompt, response: str) -> Any:
        return self._accepted(
            {
                "data_source": prompt.source,
                "solution_str": response,
                "ground_truth": prompt.answer,
                "extra_info": dict(prompt.metadata),
            }
        )


class _Slime:
    """`args` holds the verifier's options; `sample` what slime's samples have of a finished response."""

    def __init__(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self._function, self._args = function, SimpleNamespace(**arguments)

    def __call__(self, prompt: Prompt, response: str) -> Any:
        sample = SimpleNamespace(
            prompt=prompt.text,
            response=response,
            label=prompt.answer,
            metadata=dict(prompt.metadata),
            index=prompt.prompt_id,
            reward=None,
        )
        return self._function(self._args, sample)
