"""The registry of verifiers: each judges one response against its prompt.

A verifier is called as `verifier(prompt, response_text)` and returns a bool, or a reward in [-1, 1] where 1 is right,
-1 wrong and anything between partial, or either of them in a `Judged` with the answer that it read. It runs in a worker
process, in its main thread; it may be slow, hang or crash there. `prompt.token_ids` is empty. What it raises is the
verdict `error`, a `TimeoutError` the verdict `timeout`, an `UnreadableReference` the verdict `unreadable`.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Literal

from v05ray.errors import ConfigError
from v05ray.registry import PLUGIN, Choice, Registry, check_options, import_target, suggest
from v05ray.rewards.answers import last_integer, last_number, last_tagged
from v05ray.rewards.functions import adapt
from v05ray.rewards.judged import Judged
from v05ray.rewards.references import UnreadableReference
from v05ray.rewards.thinking import without_thinking
from v05ray.types import Prompt

log = logging.getLogger(__name__)

Verifier = Callable[[Prompt, str], Any]

verifiers: Registry[Verifier] = Registry("verifier")


Truncated = Literal["wrong", "judge"]
_WANTS_FINAL_ANSWER = frozenset({"math"})


def truncated_by_default(name: str) -> Truncated:
    """What `rewards.truncated` is for a verifier where it is not set.

    `math` looks for a final answer, which a cut-off response has not reached unless it is there whole. The others
    judge what there is: `last_integer` and `exact` are meant for answers of a few tokens, `code` takes no block that
    is not closed, and what a task's own scorer or a function of the user's makes of the text is theirs to say.
    """
    return "wrong" if name in _WANTS_FINAL_ANSWER else "judge"


_AROUND_TESTS_S = 2.0
"""What a verdict of `code` takes besides its tests, on a busy machine."""


def check_verifier(name: str, options: Mapping[str, Any], deadline_s: float | None = None) -> None:
    """Raises `ConfigError` for an unknown verifier or option, without importing what the verifier needs.

    With `deadline_s`, that of `rewards`, also where the verifier's own `wall_seconds` does not end before it.
    """
    verifiers.choose(name, options)
    parameters = inspect.signature(verifiers.builder(name)).parameters
    if deadline_s is not None and "wall_seconds" in parameters:
        wall = options.get("wall_seconds", parameters["wall_seconds"].default)
        if isinstance(wall, int | float) and wall + _AROUND_TESTS_S > deadline_s:
            raise ConfigError(
                f"verifier {name!r}: wall_seconds {wall:g} must be at least {_AROUND_TESTS_S:g} s less than "
                f"rewards.deadline_s {deadline_s:g}, or slow programs would count as failures of the verifier; lower "
                "the one or raise the other"
            )


@verifiers.register("exact")
def exact(ignore_case: bool = False) -> Verifier:
    """The whole response (behind its thinking) equals the reference answer, but for white space at the ends."""

    def verify(prompt: Prompt, response: str) -> Judged:
        given, wanted = without_thinking(response), prompt.answer.strip()
        if given is None:
            return Judged(False)
        given = given.strip()
        right = given.casefold() == wanted.casefold() if ignore_case else given == wanted
        return Judged(right, given)

    return verify


@verifiers.register("last_integer")
def last_integer_equals() -> Verifier:
    """The response's last number is whole and equals the reference answer, which must be an integer."""

    def verify(prompt: Prompt, response: str) -> Judged:
        wanted = last_integer(prompt.answer)
        if wanted is None:
            raise UnreadableReference(
                f"the reference answer {prompt.answer!r:.60} is not an integer; use another verifier"
            )
        text = without_thinking(response)
        if text is None:
            return Judged(False)
        given = last_number(text)
        return Judged(given == wanted, given)

    return verify


@verifiers.register("math")
def math(timeout_s: int = 5) -> Verifier:
    r"""The response's answer equals the reference answer in value: by text, as numbers, part by part, by math-verify.

    `timeout_s` bounds one parse and one comparison each, in whole seconds; `rewards.deadline_s` bounds all together.
    See `rewards.extract` for what counts as the answer, `rewards.references` for what a reference may be.
    """
    # math-verify times itself by SIGALRM: hence whole seconds, and the main thread.
    if timeout_s < 1:
        raise ValueError(f"timeout_s must be at least 1, got {timeout_s}")
    from v05ray.rewards.math_verifier import MathVerifier

    verify = MathVerifier(timeout_s)
    verify(Prompt("warm-up", "", (), r"\sqrt{2}", ""), r"\boxed{x}")  # its grammars load at first use
    return verify


_EXTRACTS: Mapping[str, Callable[[str], str]] = {
    "tagged": lambda response: last_tagged(response) or response.strip(),
    "last_number": lambda response: last_number(response) or "",
    "whole": lambda response: response,
}


@verifiers.register("reasoning_gym")
def reasoning_gym(extract: str = "tagged") -> Verifier:
    """The task's own scorer: a score s in [0, 1] is the reward 2s - 1. Needs prompts of the `reasoning_gym` source.

    `extract` is what the scorer gets of what follows the thinking: `tagged` (in the last <answer> tags; all where there
    are none), `last_number`, or the `whole` response.
    """
    if extract not in _EXTRACTS:
        raise ValueError(f"extract {extract!r} is not known{suggest(extract, _EXTRACTS)}")
    import reasoning_gym as gym

    @cache
    def scorer_of(task: str) -> Any:
        return gym.get_score_answer_fn(task)

    def verify(prompt: Prompt, response: str) -> Judged:
        task, entry = prompt.metadata.get("task"), prompt.metadata.get("entry")
        if task is None or entry is None:
            raise ValueError("the prompt has no reasoning_gym task in its metadata; use another verifier")
        text = without_thinking(response)
        if text is None:
            return Judged(-1.0)
        given = _EXTRACTS[extract](text)
        return Judged(2 * scorer_of(task)(given, entry) - 1, given)

    return verify


@verifiers.register("code")
def code(
    cpu_seconds: int = 4,
    wall_seconds: float = 8.0,
    memory_mib: int = 1024,
    output_mib: int = 4,
    max_tests: int | None = None,
    score: str = "all_or_nothing",
    tolerance: float = 1e-6,
    extract: str = "fenced",
    imports: str = "usual",
    packages: str = "installed",
    files: str = "none",
    isolation: str = "required",
) -> Verifier:
    """The Python program in the response passes the row's tests, in a sandbox; see `rewards.code` and docs/rewards.md.

    `cpu_seconds`, `memory_mib` and `output_mib` bound each process of the program (one a test; one for all asserts),
    `wall_seconds` all tests of a response together: less than `rewards.deadline_s`. `max_tests` takes the first ones.
    `score: all_or_nothing | share`. `tolerance` is that of floats. `extract: fenced | whole` says where the program is,
    `imports: usual | none` whether a judge's usual ones are there, `packages: installed | none` whether those of this
    environment are, `files: none | scratch` whether files may be written, in a folder that is removed.
    `isolation: required | best_effort` says what happens where the kernel cannot shut programs in.
    """
    for name, value, words in (
        ("score", score, ("all_or_nothing", "share")),
        ("extract", extract, ("fenced", "whole")),
        ("imports", imports, ("usual", "none")),
        ("packages", packages, ("installed", "none")),
        ("files", files, ("none", "scratch")),
    ):
        if value not in words:
            raise ValueError(f"{name} {value!r} is not known{suggest(value, words)}")
    from v05ray.rewards.code.sandbox import Limits, checked_isolation
    from v05ray.rewards.code.verifier import CodeVerifier, check_options

    check_options(
        cpu_seconds=cpu_seconds,
        wall_seconds=wall_seconds,
        memory_mib=memory_mib,
        output_mib=output_mib,
        max_tests=max_tests,
        tolerance=tolerance,
    )
    found = checked_isolation(isolation)
    if not found.complete:
        log.warning("verifier code: programs have %s", found)
    limits: Any = Limits(cpu_seconds, memory_mib, output_mib, files, packages, imports == "usual")  # pyright: ignore
    return CodeVerifier(
        limits,
        found,
        wall_seconds=wall_seconds,
        score=score,  # pyright: ignore[reportArgumentType]
        extract=extract,  # pyright: ignore[reportArgumentType]
        max_tests=max_tests,
        tolerance=tolerance,
    )


@verifiers.register(PLUGIN)
def python(
    path: str, options: Mapping[str, Any] | None = None, scale: str | None = None, completions: str = "text"
) -> Verifier:
    """A function or class of the user's: `path: package.module:name`, found on `sys.path` as the run itself has it.

    Unlike other parts from outside, a function is the verifier itself and not what makes it: so reward functions of
    other trainers can be named as they are. It gets the `options` as keywords (slime's as `args`); a class is made
    once, with the `options`, and its instances are called. The form of the call is known by its signature; see
    `rewards.functions`, also for `scale` (`zero_one`, `signed` or `as_is`), which all forms but ours need, and for
    `completions` (`text` or `messages`).
    """
    target, arguments, label = import_target(path), dict(options or {}), repr(path)
    if inspect.isclass(target):
        check_options(label, target, arguments)
        target = Choice(label, target, arguments, is_plugin=True).build()
    if not callable(target):
        raise ConfigError(f"{path!r} is a {type(target).__name__}, not a function or class")
    if (
        inspect.isfunction(target)
        and arguments
        and not {"args", "sample"} <= inspect.signature(target).parameters.keys()
    ):
        _check_keywords(label, target, arguments)
        target = partial(target, **arguments)
    return adapt(target, path, scale=scale, completions=completions, arguments=arguments)


def _check_keywords(label: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for an option that the function does not take by name."""
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for argument in arguments:
            if argument not in parameters:
                raise ConfigError(f"{label} has no option {argument!r}{suggest(argument, parameters)}")
