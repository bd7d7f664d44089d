"""What the ledger gives back: a step's groups as they were recorded, and whether the record is whole.

Pure records without Parquet, so that replay, `explain` and the report can be read and tested by themselves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from v05ray.types import ComponentScore, Decision, Draw, Prior, Stop


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """One turn of a rollout of several, as the ledger keeps it; see `types.Turn`."""

    observation: str | None
    """What the policy was shown before; None for the first turn, which answers the prompt."""
    observation_tokens: int
    response: str
    num_tokens: int
    """Those that the policy sampled."""
    logprob_sum: float
    finish_reason: str
    policy_version: int
    generator_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class RecordedRollout:
    """A scored rollout as the ledger keeps it: counts and sums instead of token ids.

    Of several turns, `response` and `finish_reason` are the last one's, counts and sums are over all of them.
    """

    sample_index: int
    response: str
    reward: float
    verdict: str
    num_tokens: int
    logprob_sum: float
    finish_reason: str
    policy_version: int
    generator_id: str
    seconds: float
    advantage: float | None
    verifier: str | None = None
    """Null, as `extracted` and `message`, in ledgers of earlier versions."""
    extracted: str | None = None
    """The answer that the verifier read; None where it found none, or does not say."""
    message: str | None = None
    """Why there was no verdict."""
    components: tuple[ComponentScore, ...] = ()
    """Of several verifiers each one's score; empty in ledgers of earlier versions."""
    turns: tuple[RecordedTurn, ...] = ()
    """Of a rollout of several turns each one; empty where there was one."""


@dataclass(frozen=True, slots=True)
class RecordedGroup:
    """A sealed prompt as the ledger keeps it: what replay and `explain` work on."""

    step: int
    prompt_id: str
    text: str
    answer: str
    source: str
    prompt_tokens: int
    prior: Prior | None
    rollouts: tuple[RecordedRollout, ...]
    """[K], ordered by sample index."""
    decisions: tuple[Decision, ...]
    greedy: RecordedRollout | None = None
    """The temperature-0 rollout, outside the budget; None where the estimator needs none."""

    @property
    def stop(self) -> Stop | None:
        """The decision that sealed the group; None if the record ends with a draw (see `check_conservation`)."""
        last = self.decisions[-1].action if self.decisions else None
        return last if isinstance(last, Stop) else None

    @property
    def num_drawn(self) -> int:
        """Rollouts that the decisions ordered."""
        return sum(d.action.num_rollouts for d in self.decisions if isinstance(d.action, Draw))

    @property
    def rewards(self) -> tuple[float, ...]:
        """[K] the rewards in sample order."""
        return tuple(rollout.reward for rollout in self.rollouts)

    @property
    def lengths(self) -> tuple[int, ...]:
        """[K] the response lengths in tokens, in sample order."""
        return tuple(rollout.num_tokens for rollout in self.rollouts)


@dataclass(frozen=True, slots=True)
class Conservation:
    """Whether what was drawn is what was scored; every problem names its step and prompt."""

    num_steps: int
    num_prompts: int
    num_drawn: int
    """Rollouts that the decisions ordered."""
    num_scored: int
    num_aborted: int
    """Given up when the batch halted (`on_halt: abort`)."""
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No draw is missing, doubled or beyond the cap, and each prompt stopped once."""
        return not self.problems


def num_given_up(group: RecordedGroup, meta: Mapping[str, Any]) -> int:
    """Rollouts in flight that the halt aborted: only in a group that it sealed, and only with `on_halt: abort`."""
    halted = group.stop is not None and group.stop.reason == "halted"
    return max(0, group.num_drawn - len(group.rollouts)) if halted and meta.get("on_halt") == "abort" else 0


def group_problems(group: RecordedGroup, meta: Mapping[str, Any]) -> Iterable[str]:
    """What is wrong with one group; `meta` is its step's, with `rule` (and its `n_max`) and `on_halt`."""
    scored = len(group.rollouts)
    if scored > group.num_drawn:
        yield f"{scored} rollouts scored, {group.num_drawn} drawn"
    if scored + num_given_up(group, meta) < group.num_drawn:
        yield f"{group.num_drawn} rollouts drawn, {scored} scored"
    indices = [rollout.sample_index for rollout in group.rollouts]
    if len(set(indices)) != scored:
        yield f"a sample index is twice among {indices}"
    if any(not 0 <= index < group.num_drawn for index in indices):
        yield f"a sample index of {indices} was never drawn ({group.num_drawn} were)"
    n_max = meta.get("rule", {}).get("n_max")
    if n_max is not None and group.num_drawn > n_max:
        yield f"{group.num_drawn} rollouts drawn, n_max is {n_max}"
    stops = sum(isinstance(decision.action, Stop) for decision in group.decisions)
    if stops != 1 or group.stop is None:
        yield f"{stops} stops, expected one, as the last decision"
