"""What every advantage estimator gets, returns, and may ask for (ours).

    groups of one batch --compute--> advantages --(optimiser step)--> observe(the same groups) --> the next batch

An estimator of scope `group` looks at one group and at the past alone, so it can be computed the moment the group is
sealed; one of scope `batch` has to see every group of the batch in one call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar, cast, get_args

from v05ray.errors import ConfigError
from v05ray.registry import Form, Registry
from v05ray.stats.state import check_state
from v05ray.types import Draw, RolloutGroup

Need = Literal["prior", "greedy", "lengths"]
Scope = Literal["group", "batch"]

ESTIMATORS: "Registry[Estimator]" = Registry(
    "advantage",
    Form(
        methods={"compute": 1},
        inherited={"observe": 1, "metrics": 0, "state_dict": 0, "load_state_dict": 1},
        attributes={
            "name": None,
            "scope": get_args(Scope),
            "needs": get_args(Need),
            "min_rollouts": None,
            "leave_one_out": None,
            "takes_punishments": None,
        },
        fix="make it a subclass of v05ray.advantages.Estimator with compute(self, groups)",
    ),
)
"""Every estimator by name; `@advantage("name")` adds one."""

_MENDING: Mapping[Need, str] = {
    "prior": "set value.enabled: true",
    "greedy": "draw one greedy rollout per prompt (the driver does where the estimator says it needs one)",
    "lengths": "pass the response lengths in tokens",
}


@dataclass(frozen=True, slots=True)
class GroupView:
    """One prompt's rollouts as an estimator sees them.

    >>> group = GroupView("sum-3", (1.0, -1.0, -1.0), prior=0.5, lengths=(12, 30, 7), num_cold_start=2)
    >>> group.cold_rewards
    (1.0, -1.0)
    """

    prompt_id: str
    rewards: tuple[float, ...]
    """[K] in [-1, 1], in sample order, so the first `num_cold_start` are the cold start."""
    prior: float | None = None
    """V in [-1, 1]."""
    lengths: tuple[int, ...] | None = None
    """[K] response lengths in tokens."""
    greedy_reward: float | None = None
    """Reward in [-1, 1] of the greedy rollout."""
    num_cold_start: int | None = None
    """How many of the rewards were drawn before any was seen; None means all of them."""
    punishments: tuple[float, ...] | None = None
    """[K] in [-1, 0], already part of `rewards`, which may then be as low as -2; None means none. See `overlong`."""

    @property
    def cold_rewards(self) -> tuple[float, ...]:
        """The rewards whose number did not depend on their values: the unbiased sample of the group."""
        return self.rewards if self.num_cold_start is None else self.rewards[: self.num_cold_start]

    @classmethod
    def of(cls, group: RolloutGroup) -> "GroupView":
        """The view of a sealed group; its first decision was the cold start."""
        cold_start = group.decisions[0].action if group.decisions else None
        return cls(
            prompt_id=group.prompt.prompt_id,
            rewards=group.rewards,
            prior=group.prior.value if group.prior else None,
            lengths=tuple(one.rollout.num_tokens for one in group.scored),
            greedy_reward=group.greedy.reward if group.greedy else None,
            num_cold_start=cold_start.num_rollouts if isinstance(cold_start, Draw) else None,
        )


@dataclass(frozen=True, slots=True)
class Advantages:
    """One group's advantages.

    >>> Advantages((2.0, -1.0, -1.0)).num_bounded
    0
    """

    values: tuple[float, ...]
    """[K] in the order of the rewards."""
    num_bounded: int = 0
    """Rollouts whose advantage a guard changed (clipped prior, floored deviation, ...); watch its share."""
    dropped: frozenset[int] = field(default_factory=frozenset)
    """Indices that the estimator spends on the baseline and that are not to be trained on (mc_grpo); advantage 0."""
    weights: tuple[float, ...] | None = None
    """[K] weight of the data mean in the baseline, for the fused estimators: a metric."""


class Estimator(Protocol):
    """Rewards to advantages. Subclasses give `scope`, `needs`, `min_rollouts` and `compute`.

    The methods with a body here are the defaults of estimators without memory.

    >>> class SignOnly(Estimator):
    ...     def compute(self, groups):
    ...         return [Advantages(tuple(1.0 if r > 0 else -1.0 for r in group.rewards)) for group in groups]
    >>> SignOnly().compute([GroupView("p", (0.5, -1.0))])
    [Advantages(values=(1.0, -1.0), num_bounded=0, dropped=frozenset(), weights=None)]
    """

    name: ClassVar[str] = ""
    """Set by the decorator."""
    scope: ClassVar[Scope] = "group"
    needs: ClassVar[frozenset[Need]] = frozenset()
    min_rollouts: ClassVar[int] = 1
    leave_one_out: ClassVar[bool] = False
    """Whether the weight of each rollout is that of a baseline made without it, for estimators that give weights."""
    takes_punishments: ClassVar[bool] = False
    """Whether it uses rewards by their differences alone, so that they may be below -1; not where it compares them with
    a prior, or takes them for successes and failures."""

    def __init__(self) -> None:
        """No options."""

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order; raises `ConfigError` for an unmet need. Does not change the state."""
        ...

    def observe(self, groups: Sequence[GroupView]) -> None:
        """Learn from a whole batch, once, after its advantages were computed; give the groups in batch order."""

    def metrics(self) -> Mapping[str, float]:
        """What the estimator has learned, by metric name (under `v05/`)."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, for the checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; anything else raises `ValueError`."""
        check_state(f"advantage {self.name!r}", state, set())


E = TypeVar("E", bound="type[Estimator]")


def advantage(name: str) -> Callable[[E], E]:
    """Class decorator: registers an estimator under its one name; raises `ValueError` for a name that is taken.

    >>> advantage("rloo")(type("Other", (Estimator,), {}))
    Traceback (most recent call last):
    ValueError: advantage 'rloo' is registered twice
    """

    def add(cls: E) -> E:
        cls.name = name
        ESTIMATORS.register(name)(cast("Callable[..., Estimator]", cls))
        return cls

    return add


def check_groups(estimator: Estimator, groups: Sequence[GroupView]) -> None:
    """Raise `ConfigError`, naming prompt, need and fix, where a group lacks what the estimator needs.

    Raises:
        ConfigError: for too few rollouts, or a need without a value.
        ValueError: for lengths[K] of another K than the rewards', or a reward or prior outside [-1, 1].

    >>> rloo = ESTIMATORS.build("rloo", {})
    >>> check_groups(rloo, [GroupView("p", (1,))])  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ConfigError: rloo needs >= 2 rollouts, got 1 for 'p'; raise the budget rule's cold_start (or n)
    """
    for group in groups:
        count = len(group.rewards)
        if count < estimator.min_rollouts:
            raise ConfigError(
                f"{estimator.name} needs >= {estimator.min_rollouts} rollouts, got {count} for {group.prompt_id!r}; "
                "raise the budget rule's cold_start (or n)"
            )
        for need in sorted(estimator.needs):
            value = {"prior": group.prior, "greedy": group.greedy_reward, "lengths": group.lengths}[need]
            if value is None:
                raise ConfigError(f"{estimator.name} needs {need}, got none for {group.prompt_id!r}; {_MENDING[need]}")
        if group.lengths is not None and len(group.lengths) != count:
            raise ValueError(f"{group.prompt_id!r} has {count} rewards but {len(group.lengths)} lengths")
        punishments = group.punishments or (0,) * count
        if any(punishments) and not estimator.takes_punishments:
            raise ConfigError(
                f"{estimator.name} cannot use rewards below -1, and a response of {group.prompt_id!r} is punished for "
                "its length; leave rewards.overlong_buffer out"
            )
        verified = [reward - one for reward, one in zip(group.rewards, punishments, strict=True)]
        for number in (*verified, group.prior, group.greedy_reward):
            if number is not None and not -1 <= number <= 1:
                raise ValueError(f"{group.prompt_id!r} has {number} as reward or prior; both must be in [-1, 1]")
