"""Advantage estimators by name. To add one: a class with `@advantage("name")` in a file here, imported below.

Each file names its paper; looking them up by name is ours.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from v05ray.advantages import (
    bnpo,
    ebpo,
    fused,
    group_mean,
    ha_dw,
    james_stein,
    krpo,
    opo,
    quantile,
    remax,
    spo,
    whitened,
)
from v05ray.advantages.base import (
    ESTIMATORS,
    Advantages,
    Estimator,
    GroupView,
    Need,
    Scope,
    advantage,
)

__all__ = [
    "ESTIMATORS",
    "Advantages",
    "Estimator",
    "GroupView",
    "Need",
    "Scope",
    "advantage",
    "bnpo",
    "build",
    "ebpo",
    "fused",
    "get",
    "group_mean",
    "ha_dw",
    "james_stein",
    "krpo",
    "opo",
    "quantile",
    "remax",
    "spo",
    "whitened",
]


class AdvantageFunction(Protocol):
    """One group's `rewards`[K] in [-1, 1] to its advantages[K]; the other arguments as in `GroupView` (ours).

    >>> opo = get("opo")
    >>> opo([1, -1], lengths=[30, 10])
    [0.5, -1.5]
    """

    def __call__(
        self,
        rewards: Sequence[float],
        *,
        prior: float | None = None,
        lengths: Sequence[int] | None = None,
        greedy_reward: float | None = None,
    ) -> list[float]: ...


def build(name: str, **options: Any) -> Estimator:
    """A fresh estimator with its options; raises `ConfigError` for an unknown name or option.

    >>> build("qae", quantile=0.5).name
    'qae'
    """
    return ESTIMATORS.build(name, options)


def get(name: str, **options: Any) -> AdvantageFunction:
    """The estimator as a function of one group, without memory; raises `ConfigError` for an unknown name or option.

    >>> get("rloo")([1, -1, -1])
    [2.0, -1.0, -1.0]
    """
    estimator = build(name, **options)

    def compute(
        rewards: Sequence[float],
        *,
        prior: float | None = None,
        lengths: Sequence[int] | None = None,
        greedy_reward: float | None = None,
    ) -> list[float]:
        group = GroupView(
            prompt_id="group",
            rewards=tuple(rewards),
            prior=prior,
            lengths=None if lengths is None else tuple(lengths),
            greedy_reward=greedy_reward,
        )
        return list(estimator.compute([group])[0].values)

    return compute
