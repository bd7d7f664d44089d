"""Whether reference answers can be right at all: each must judge itself correct, boxed, before a run starts.

In this process and without math-verify's grammars where text decides, so that tens of thousands take seconds.
"""

import logging
from collections.abc import Callable, Sequence

from v05ray.config import Spec, VerifierSpec
from v05ray.rewards.answers import last_integer
from v05ray.rewards.by_source import take_apart
from v05ray.rewards.code.verifier import reference_reason
from v05ray.rewards.references import UnreadableReference, read_reference
from v05ray.rewards.verifiers import verifiers
from v05ray.types import Prompt

log = logging.getLogger(__name__)

ReferenceCheck = Callable[[Prompt], str | None]
"""Why a prompt's reference answer can never be right; None where it can."""

_SCORED = 64
"""Prompts of a reasoning_gym source whose own answer is scored; a scorer may take long."""


def reference_check(verifier: VerifierSpec) -> ReferenceCheck | None:
    """The check of references for a verifier; None where only the verifier itself knows what its references mean.

    `exact` takes any text; what a `python` verifier takes is its own affair, and its code is not run here. See
    `check_scorer` for `reasoning_gym`.
    """
    default, by_label = take_apart(verifier)
    otherwise = _check_of(default)
    checks = {label: _check_of(one) for label, one in by_label.items()}
    if otherwise is None and not any(checks.values()):
        return None

    def of_source(prompt: Prompt) -> str | None:
        check = checks.get(prompt.source, otherwise)
        return None if check is None else check(prompt)

    return of_source


def _check_of(verifier: VerifierSpec) -> ReferenceCheck | None:
    """Of several verifiers each one has to be able to read the reference: one that cannot fails every verdict."""
    found = [check for one in verifier.singles if (check := _single_check(one)) is not None]
    if not found:
        return None
    return lambda prompt: next((reason for check in found if (reason := check(prompt)) is not None), None)


def _single_check(verifier: Spec) -> ReferenceCheck | None:
    if verifier.name == "math":
        return _math_check(int(verifier.options.get("timeout_s", 5)))
    if verifier.name == "last_integer":
        return _integer_reason
    if verifier.name == "code":
        return reference_reason
    return None


def _integer_reason(prompt: Prompt) -> str | None:
    if last_integer(prompt.answer) is None:
        return f"the reference answer {prompt.answer!r:.60} is not an integer; use another verifier"
    return None


def _math_check(timeout_s: int) -> ReferenceCheck:
    from v05ray.rewards.math_verifier import MathVerifier

    verify = MathVerifier(timeout_s)

    def reason(prompt: Prompt) -> str | None:
        try:
            for one in read_reference(prompt.answer):
                if not verify(prompt, f"\\boxed{{{one}}}"):
                    return f"the reference answer {one!r:.60} does not judge itself correct"
        except UnreadableReference as error:
            return str(error)
        except TimeoutError as error:
            return f"the reference answer {prompt.answer!r:.60} cannot be judged: {error}"
        return None

    return reason


def check_scorer(verifier: VerifierSpec, prompts: Sequence[Prompt]) -> list[str]:
    """Prompt ids, of some, whose own answer the reasoning_gym scorer does not call right; it can then be no reference.

    Warns and refuses nothing: some tasks accept answers that are not the one they name.
    """
    default, by_label = take_apart(verifier)
    wrong = _unscored(default, [prompt for prompt in prompts if prompt.source not in by_label])
    for label, one in by_label.items():
        wrong += _unscored(one, [prompt for prompt in prompts if prompt.source == label])
    return wrong


def _unscored(verifier: VerifierSpec, prompts: Sequence[Prompt]) -> list[str]:
    spec = next((one for one in verifier.singles if one.name == "reasoning_gym"), None)
    if spec is None or not prompts:
        return []
    verify = verifiers.build(spec.name, spec.options)
    step = -(-len(prompts) // _SCORED)
    looked_at = [prompt for prompt in prompts[::step] if prompt.answer]
    wrong = [prompt.prompt_id for prompt in looked_at if not verify(prompt, f"<answer>{prompt.answer}</answer>")]
    if wrong:
        log.warning(
            "the reasoning_gym scorer does not call its own answer right for %d of %d prompts looked at, such as %s; "
            "their reward may be out of reach",
            len(wrong),
            len(looked_at),
            wrong[0],
        )
    return wrong
