"""Baselines from the group's own mean: grpo, dr_grpo, rloo."""

from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.stats.moments import mean, sample_deviation

EPS = 1e-6
"""Added to a deviation before dividing by it."""


@advantage("grpo")
class Grpo(Estimator):
    """A_i = (r_i - mu) / (sd + eps), sd with n - 1 (arXiv 2402.03300). Biased: mu contains r_i.

    >>> [round(value, 3) for value in Grpo().compute([GroupView("p", (1, -1, -1, -1))])[0].values]  # mu = -.5, sd = 1
    [1.5, -0.5, -0.5, -0.5]
    """

    takes_punishments = True
    min_rollouts = 2

    def __init__(self, *, eps: float = EPS) -> None:
        """`eps` > 0 keeps a group of equal rewards at 0; else `ValueError`."""
        if not eps > 0:
            raise ValueError(f"eps must be > 0, got {eps}")
        self.eps = eps

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        return [Advantages(self._values(group.rewards)) for group in groups]

    def _values(self, rewards: tuple[float, ...]) -> tuple[float, ...]:
        mu, scale = mean(rewards), sample_deviation(rewards) + self.eps
        return tuple((r - mu) / scale for r in rewards)


@advantage("dr_grpo")
class DrGrpo(Estimator):
    """A_i = r_i - mu (arXiv 2503.20783); goes with the aggregation `constant_length`.

    >>> DrGrpo().compute([GroupView("p", (1, -1, -1, -1))])[0].values
    (1.5, -0.5, -0.5, -0.5)
    """

    takes_punishments = True
    min_rollouts = 2

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        return [Advantages(_centred(group.rewards, 1.0)) for group in groups]


@advantage("rloo")
class Rloo(Estimator):
    """A_i = r_i - mean of the others = n / (n - 1) (r_i - mu) (arXiv 2402.14740). Unbiased.

    >>> Rloo().compute([GroupView("p", (1, -1, -1, -1))])[0].values  # 1 - (-1)
    (2.0, -0.6666666666666666, -0.6666666666666666, -0.6666666666666666)
    """

    takes_punishments = True
    min_rollouts = 2

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        return [Advantages(_centred(g.rewards, len(g.rewards) / (len(g.rewards) - 1))) for g in groups]


def _centred(rewards: tuple[float, ...], gain: float) -> tuple[float, ...]:
    mu = mean(rewards)
    return tuple(gain * (r - mu) for r in rewards)
