"""What a budget rule sees and says (ours). The machine in `batch.py` counts, pads and halts the batch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast

from v05ray.registry import Form, Registry
from v05ray.stats.state import check_state
from v05ray.types import StopReason

RULES: "Registry[Rule]" = Registry(
    "budget rule",
    Form(
        methods={"plan": 1, "judge": 1},
        inherited={"judge_all": 1, "observe": 1, "metrics": 0, "state_dict": 0, "load_state_dict": 1},
        attributes={
            "name": None,
            "scope": ("prompt", "batch"),
            "needs": ("prior",),
            "min_rollouts": None,
            "n_max": None,
        },
        fix="make it a subclass of v05ray.budget.Rule with plan(self, priors), judge(self, evidence), min_rollouts "
        "and n_max",
    ),
)
"""Every rule by name; `@rule("name")` adds one."""

_UNIT = float(1 << 60)


@dataclass(slots=True)
class Evidence:
    """What is known of one prompt: the machine counts here, rules only read.

    Not frozen, and the machine's own record: a batch may hold a million prompts, and is judged 100,000 times a second.

    >>> evidence = Evidence("sum-3", prior=0.5, num_cold_start=4)
    >>> evidence.add(1.0, num_tokens=30)
    >>> evidence.add(-1.0, num_tokens=10)
    >>> evidence.mean, evidence.num_scored, evidence.num_positive, evidence.num_tokens
    (0.0, 2, 1, 40)
    """

    prompt_id: str
    prior: float | None
    """V in [-1, 1]."""
    num_cold_start: int
    """Rollouts drawn before any reward was seen: the rule's own `plan`."""
    num_outstanding: int = 0
    """Drawn and not yet scored; 0 whenever a rule is asked."""
    num_scored: int = 0
    reward_units: int = 0
    """Sum of the rewards in units of 2^-60: integers add up to the same in any order of arrival."""
    num_positive: int = 0
    """Rewards above 0."""
    lowest: float = 1.0
    highest: float = -1.0
    num_tokens: int = 0
    """Of the scored responses."""

    @property
    def mean(self) -> float:
        """Mean reward in [-1, 1]; needs a scored rollout."""
        return self.reward_units / (self.num_scored << 60)

    def add(self, reward: float, num_tokens: int = 0) -> None:
        """Count one scored rollout: `reward` in [-1, 1], `num_tokens` >= 0 of its response."""
        self.num_scored += 1
        self.reward_units += int(reward * _UNIT)
        self.num_positive += reward > 0
        self.num_tokens += num_tokens
        if reward < self.lowest:
            self.lowest = reward
        if reward > self.highest:
            self.highest = reward


@dataclass(frozen=True, slots=True)
class Judgement:
    """A rule's decision on one prompt: it wants `target` >= 0 rollouts in all; where no more than are scored, it stops.

    >>> Judgement(12, "target_reached", bias_squared=0.3).target
    12
    """

    target: int
    reason: StopReason
    """Why to stop, if that is what the target means; unread otherwise."""
    bias_squared: float | None = None
    """b2 >= 0 in squared reward, where the rule uses it."""


class Rule(Protocol):
    """How many rollouts a prompt gets. Subclasses give `plan` and `judge`; bodies here are the defaults.

    A rule of scope `prompt` judges each prompt by its own evidence; one of scope `batch` allots a total over all open
    prompts and so needs the barrier of the mode `rounds`. Judging changes no state: what a rule remembers it learns in
    `observe`, at the end of a step, so decisions do not depend on the order in which rollouts arrive.

    >>> class UntilSolved(Rule):
    ...     min_rollouts, n_max = 1, 8
    ...     def plan(self, priors):
    ...         return dict.fromkeys(priors, 1)
    ...     def judge(self, evidence):
    ...         return Judgement(1 if evidence.num_positive else 8, "target_reached")
    >>> evidence = Evidence("p", prior=None, num_cold_start=1)
    >>> evidence.add(-1.0)
    >>> UntilSolved().judge(evidence).target
    8
    """

    name: ClassVar[str] = ""
    """Set by the decorator."""
    needs: ClassVar[frozenset[Literal["prior"]]] = frozenset()
    scope: ClassVar[Literal["prompt", "batch"]] = "prompt"
    min_rollouts: int
    """Every prompt gets at least this many."""
    n_max: int
    """No prompt gets more."""

    def __init__(self) -> None:
        """No options."""

    def plan(self, priors: Mapping[str, float | None]) -> Mapping[str, int]:
        """Rollouts to draw for each prompt before any reward is seen, each in [min_rollouts, n_max].

        `priors` has V in [-1, 1] (or None) by prompt id.
        """
        ...

    def judge(self, evidence: Evidence) -> Judgement:
        """What to do with one prompt, of which everything drawn is scored (at least one rollout)."""
        ...

    def judge_all(self, evidence: Sequence[Evidence]) -> list[Judgement]:
        """All open prompts together, at a barrier; in order."""
        return [self.judge(one) for one in evidence]

    def observe(self, evidence: Sequence[Evidence]) -> None:
        """Learn from a whole, sealed batch (`BatchMachine.evidence()`)."""

    def metrics(self) -> Mapping[str, float]:
        """What the rule has learned, by metric name (under `v05/`)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, for the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; anything else raises `ValueError`."""
        check_state(f"budget rule {self.name!r}", state, set())


R = TypeVar("R", bound="type[Rule]")


def rule(name: str) -> Callable[[R], R]:
    """Class decorator: registers a rule under its one name; raises `ValueError` for a name that is taken.

    >>> taken = RULES.names[0]
    >>> rule(taken)(type("Other", (Rule,), {}))
    Traceback (most recent call last):
    ValueError: budget rule 'dapo' is registered twice
    """

    def add(cls: R) -> R:
        cls.name = name
        RULES.register(name)(cast("Callable[..., Rule]", cls))
        return cls

    return add
