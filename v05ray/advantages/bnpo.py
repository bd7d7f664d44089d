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
        return [
            Advantages(_values(group.rewards, p, 1.0 if a == b == 1 else _beta_density(p, a, b)))
            for group, p in zip(groups, rates, strict=True)
        ]


def _values(rewards: tuple[float, ...], p: float, density: float) -> tuple[float, ...]:
    if density == 0:  # only at p = 0 and p = 1, where all rewards are equal
        return (0.0,) * len(rewards)
    return tuple(((1 + r) / 2 - p) / density for r in rewards)


def _fit(rates: Sequence[float]) -> tuple[float, float]:
    m = mean(rates)
    v = math.fsum((p - m) ** 2 for p in rates) / len(rates)
    if v < 1e-12:
        return 1.0, 1.0
    spread = (m * (1 - m) / v - 1) / 3
    return max(1.0, 1 + spread * m), max(1.0, 1 + spread * (1 - m))


def _beta_density(p: float, a: float, b: float) -> float:
    if (p <= 0 and a > 1) or (p >= 1 and b > 1):
        return 0.0
    norm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    # x^0 = 1 also at x = 0, so a side whose exponent is 0 contributes nothing.
    log_p = (a - 1) * math.log(p) if a > 1 else 0.0
    log_q = (b - 1) * math.log(1 - p) if b > 1 else 0.0
    return math.exp(norm + log_p + log_q)
