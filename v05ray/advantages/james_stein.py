"""Shrink each group's mean to the batch's, leaving out on both levels: james_stein."""

import math
from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.stats.moments import mean, sample_variance


@advantage("james_stein")
class JamesStein(Estimator):
    """A_ij = r_ij - [(1-l) mu_{i,-j} + l mubar_{-i}], l = (n-1)/n v / (v + s) (arXiv 2511.03710).

    mu_{i,-j} is the mean of the group's other rollouts, mubar_{-i} the mean of the other n - 1 groups' means, v the
    variance of mu_{i,-j} and s that of the prompts' true means. v and s are estimated from the other groups too, so
    nothing in the baseline has seen r_ij: unbiased. With fewer than two other groups l = 0, which is rloo.

    >>> groups = [GroupView("a", (1, -1)), GroupView("b", (1, 1)), GroupView("c", (1, -1))]
    >>> [round(value, 3) for value in JamesStein().compute(groups)[0].values]  # l = 2/3 * 1/(1 + 0), mubar = 1/2
    [1.0, -1.667]
    """

    scope = "batch"
    min_rollouts = 2

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order; `groups` is the whole batch. `ConfigError` for an unmet need.

        Time O(rollouts).
        """
        check_groups(self, groups)
        means = [mean(group.rewards) for group in groups]
        noises = [sample_variance(group.rewards) for group in groups]  # of one reward
        sizes = [len(group.rewards) for group in groups]
        sums = (
            math.fsum(means),
            math.fsum(m * m for m in means),
            math.fsum(noises),
            math.fsum(noise / size for noise, size in zip(noises, sizes, strict=True)),
        )
        results = []
        for group, m, noise, size in zip(groups, means, noises, sizes, strict=True):
            left = (sums[0] - m, sums[1] - m * m, sums[2] - noise, sums[3] - noise / size)
            weight, centre = _shrinkage(left, len(groups), size)
            others = ((size * m - r) / (size - 1) for r in group.rewards)
            values = (
                r - ((1 - weight) * other + weight * centre) for r, other in zip(group.rewards, others, strict=True)
            )
            results.append(Advantages(tuple(values)))
        return results


def _shrinkage(left: tuple[float, float, float, float], num_groups: int, size: int) -> tuple[float, float]:
    """(l, mubar_{-i}) from the other groups' sums of mu, mu^2, reward variance, and variance of mu."""
    others = num_groups - 1
    if others < 2:
        return 0.0, 0.0
    centre = left[0] / others
    spread = (left[1] - others * centre * centre) / (others - 1)
    between = max(0.0, spread - left[3] / others)
    within = max(0.0, left[2] / others) / (size - 1)
    if within < 1e-12:
        return 0.0, centre
    return others / num_groups * within / (within + between), centre
