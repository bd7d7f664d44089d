"""What a step's verdicts were, and when too many of them say nothing about the responses. Standard library only."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from v05ray.errors import RunError
from v05ray.types import FAILURES, RolloutGroup, ScoredRollout, Verdict

KINDS: tuple[Verdict, ...] = get_args(Verdict)
SHOWN_ABOVE = 0.01
"""Share of failed verdicts above which a step's line names them."""
_MESSAGES = 3
_MESSAGE_CHARS = 200
_NAMES = {"unreadable": "unreadable reference"}


def scored_of(groups: Iterable[RolloutGroup]) -> list[ScoredRollout]:
    """All rollouts of the groups that train the policy."""
    return [one for group in groups for one in group.scored]


def verdict_counts(groups: Iterable[RolloutGroup]) -> dict[str, int]:
    """By kind, without kinds that did not occur."""
    counts = Counter(one.verdict for one in scored_of(groups))
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def verdict_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """The share of each kind in [0, 1], every kind always: `v05/verdict_correct_fraction`, ..."""
    counts = verdict_counts(groups)
    total = sum(counts.values())
    return {f"v05/verdict_{kind}_fraction": counts.get(kind, 0) / total for kind in KINDS} if total else {}


def failures_shown(metrics: Mapping[str, float]) -> str | None:
    """`verdicts: 12 % error, 3 % timeout` of a step's metrics; None where almost all verdicts say something."""
    shares = {kind: metrics.get(f"v05/verdict_{kind}_fraction", 0.0) for kind in FAILURES}
    if sum(shares.values()) <= SHOWN_ABOVE:
        return None
    named = (f"{share:.0%} {_NAMES.get(kind, kind)}" for kind, share in shares.items() if share > 0)
    return f"verdicts: {', '.join(named)}"


def counts_shown(counts: Mapping[str, int]) -> str:
    """`correct 640, wrong 380, unreadable reference 4` of counts by kind."""
    return ", ".join(f"{_NAMES.get(kind, kind)} {counts[kind]:,}" for kind in KINDS if counts.get(kind)) or "none"


def check_failures(groups: Sequence[RolloutGroup], max_fraction: float, step: int) -> None:
    """Raises `RunError` where more than `max_fraction` of the step's verdicts say nothing about the response.

    A policy that learned from them would learn from noise. The message has the most frequent reasons, a prompt each.
    """
    scored = scored_of(groups)
    failed = [one for one in scored if one.verdict in FAILURES]
    if len(failed) <= max_fraction * len(scored):
        return
    reasons: dict[str, list[ScoredRollout]] = {}
    for one in failed:
        reasons.setdefault(one.message or one.verdict, []).append(one)
    most = sorted(reasons.items(), key=lambda item: -len(item[1]))[:_MESSAGES]
    listed = "; ".join(
        f"{len(ones)} x {ones[0].verdict}: {message[:_MESSAGE_CHARS]} (such as prompt {ones[0].rollout.prompt_id!r})"
        for message, ones in most
    )
    raise RunError(
        f"step {step}: {len(failed)} of {len(scored)} verdicts are failures of the verifier, more than "
        f"rewards.max_error_fraction {max_fraction:g} allows; nothing was learned from the step. {listed}. Correct the "
        "references or rewards.verifier, or raise the fraction"
    )
