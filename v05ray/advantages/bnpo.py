"""Normalised by a Beta density fitted to the batch: bnpo."""

import math
from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.stats.moments import mean


@advantage("bnpo")
class Bnpo(Estimator):
    """A_i = (x_i - p) / Beta(p; a, b) on x = (1 + r) / 2, p the group's mean (arXiv 2506.02864).

    With m and v the batch's mean and variance of p: a = max(1, 1 + (m (1-m) / v - 1) m / 3), b the same with 1 - m.
    Where all groups have one p (v = 0) the fit degenerates; the density is then taken as uniform, 1.

    >>> easy, hard = GroupView("easy", (1, 1, 1, -1)), GroupView("hard", (1, -1, -1, -1))  # p = 3/4 and 1/4
    >>> [round(value, 3) for value in Bnpo().compute([easy, hard])[0].values]  # a = b = 1.5, density 1.103
    [0.227, 0.227, 0.227, -0.68]
    """

    scope = "batch"
    min_rollouts = 2

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order; `groups` is the whole batch. `ConfigError` for an unmet need."""
        check_groups(self, groups)
        rates = [(1 + mean(group.rewards)) / 2 for group in groups]
        a, b = _fit(rates)
        return [Advantages(_values(group.rewards, p, a, b)) for group, p in zip(groups, rates, strict=True)]


def _values(rewards: tuple[float, ...], p: float, a: float, b: float) -> tuple[float, ...]:
    if p in (0, 1):  # all rewards are equal; the density is 0 where it is not uniform
        return (0.0,) * len(rewards)
    density = _beta_density(p, a, b)
    return tuple(((1 + r) / 2 - p) / density for r in rewards)


def _fit(rates: Sequence[float]) -> tuple[float, float]:
    m = mean(rates)
    v = math.fsum((p - m) ** 2 for p in rates) / len(rates)
    if v < 1e-12:
        return 1.0, 1.0
    spread = (m * (1 - m) / v - 1) / 3
    return max(1.0, 1 + spread * m), max(1.0, 1 + spread * (1 - m))


def _beta_density(p: float, a: float, b: float) -> float:
    norm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(norm + (a - 1) * math.log(p) + (b - 1) * math.log(1 - p))
