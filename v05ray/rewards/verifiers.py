"""The registry of verifiers: each judges one response against its prompt.

A verifier is called as `verifier(prompt, response_text)` and returns a bool, or a reward in [-1, 1] where 1 is right,
-1 wrong and anything between partial. It runs in a worker process, in its main thread; it may be slow, hang or crash
there. `prompt.token_ids` is empty. What it raises is the verdict `error`, a `TimeoutError` the verdict `timeout`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache, lru_cache, partial
from typing import Any

from v05ray.registry import ConfigError, Registry, suggest
from v05ray.rewards.answers import last_integer, last_number, last_tagged
from v05ray.types import Prompt

Verifier = Callable[[Prompt, str], Any]

verifiers: Registry[Verifier] = Registry("verifier")


def check_verifier(name: str, options: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for an unknown verifier or option, without importing what the verifier needs."""
    parameters = inspect.signature(verifiers.builder(name)).parameters
    for option in options:
        if option not in parameters:
            raise ConfigError(f"verifier {name!r} has no option {option!r}{suggest(option, parameters)}")
    for parameter in parameters.values():
        if parameter.default is inspect.Parameter.empty and parameter.name not in options:
            raise ConfigError(f"verifier {name!r} needs {parameter.name}")


@verifiers.register("exact")
def exact(ignore_case: bool = False) -> Verifier:
    """The whole response equals the reference answer, but for white space at the ends."""

    def verify(prompt: Prompt, response: str) -> bool:
        given, wanted = response.strip(), prompt.answer.strip()
        return given.casefold() == wanted.casefold() if ignore_case else given == wanted

    return verify


@verifiers.register("last_integer")
def last_integer_equals() -> Verifier:
    """The response's last number is whole and equals the reference answer, which must be an integer."""

    def verify(prompt: Prompt, response: str) -> bool:
        wanted = last_integer(prompt.answer)
        if wanted is None:
            raise ValueError(f"the reference answer {prompt.answer!r:.60} is not an integer; use another verifier")
        return last_integer(response) == wanted

    return verify


@verifiers.register("math")
def math(timeout_s: int = 5) -> Verifier:
    r"""math-verify: the last number, LaTeX or boxed expression of the response equals the reference answer in value.

    `timeout_s` bounds one parse and one comparison each, in whole seconds; `rewards.deadline_s` bounds all together.
    """
    # math-verify times itself by SIGALRM: hence whole seconds, and the main thread.
    if timeout_s < 1:
        raise ValueError(f"timeout_s must be at least 1, got {timeout_s}")
    import math_verify
    from math_verify.errors import TimeoutException

    @lru_cache(maxsize=4096)
    def parse_reference(answer: str) -> tuple[Any, ...]:
        # A bare `\frac{1}{2}` is read as LaTeX only inside a box or dollars.
        marked = answer if "\\boxed" in answer or "$" in answer else f"\\boxed{{{answer}}}"
        parsed = math_verify.parse(marked, parsing_timeout=timeout_s, raise_on_error=True) if answer.strip() else ()
        if not parsed:
            raise ValueError(f"the reference answer {answer!r:.60} cannot be read as mathematics")
        return tuple(parsed)

    def verify(prompt: Prompt, response: str) -> bool:
        try:
            wanted = list(parse_reference(prompt.answer))
            given = math_verify.parse(response, parsing_timeout=timeout_s, raise_on_error=True)
            return math_verify.verify(wanted, given, timeout_seconds=timeout_s, raise_on_error=True)
        except TimeoutException as error:
            raise TimeoutError(f"math-verify took longer than {timeout_s} s") from error

    verify(Prompt("warm-up", "", (), r"\frac{1}{2}", ""), r"\boxed{x}")  # its grammars load at first use
    return verify


_EXTRACTS: Mapping[str, Callable[[str], str]] = {
    "tagged": lambda response: last_tagged(response) or response.strip(),
    "last_number": lambda response: last_number(response) or "",
    "whole": lambda response: response,
}


@verifiers.register("reasoning_gym")
def reasoning_gym(extract: str = "tagged") -> Verifier:
    """The task's own scorer: a score s in [0, 1] is the reward 2s - 1. Needs prompts of the `reasoning_gym` source.

    `extract` is what the scorer gets: `tagged` (in the last <answer> tags; all where there are none), `last_number`,
    or the `whole` response.
    """
    if extract not in _EXTRACTS:
        raise ValueError(f"extract {extract!r} is not known{suggest(extract, _EXTRACTS)}")
    import reasoning_gym as gym

    @cache
    def scorer_of(task: str) -> Any:
        return gym.get_score_answer_fn(task)

    def verify(prompt: Prompt, response: str) -> float:
        task, entry = prompt.metadata.get("task"), prompt.metadata.get("entry")
        if task is None or entry is None:
            raise ValueError("the prompt has no reasoning_gym task in its metadata; use another verifier")
        return 2 * scorer_of(task)(_EXTRACTS[extract](response), entry) - 1

    return verify


@verifiers.register("python")
def python(path: str, options: Mapping[str, Any] | None = None) -> Verifier:
    """A function or class of the user's: `path: package.module:name`, found on `sys.path` as the run itself has it.

    A function is called with (prompt, response_text) and the `options` as keywords; a class is made once, with the
    `options`, and then called with (prompt, response_text).
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"path must be 'package.module:name', got {path!r}")
    try:
        target = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import {path!r}: {error}; is its folder on PYTHONPATH?") from error
    if inspect.isclass(target):
        target = target(**(options or {}))
    elif options:
        target = partial(target, **options)
    if not callable(target):
        raise ConfigError(f"{path!r} is a {type(target).__name__}, not a function or class")
    return target


@verifiers.register("by_source")
def by_source(default: Mapping[str, Any], sources: Mapping[str, Mapping[str, Any]]) -> Verifier:
    """Each prompt is judged by the verifier of its source, others by `default`; each one is `{name, **options}`.

    What `verifier:` in an entry of `data.train` or `data.eval` comes to.
    """

    def build(spec: Mapping[str, Any]) -> Verifier:
        return verifiers.build(spec["name"], {name: value for name, value in spec.items() if name != "name"})

    of_source, otherwise = {name: build(spec) for name, spec in sources.items()}, build(default)

    def verify(prompt: Prompt, response: str) -> Any:
        return of_source.get(prompt.source, otherwise)(prompt, response)

    return verify
