"""Baselines from order statistics: mc_grpo (median), qae (a quantile)."""

from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.advantages.group_mean import EPS
from v05ray.stats.moments import lower_quantile, median, sample_deviation

MAD_EPS = 1e-3


@advantage("mc_grpo")
class McGrpo(Estimator):
    """A_i = (r_i - median) / (MAD + 1e-3), from n + 1 rollouts of which the median one is dropped (arXiv 2601.22582).

    An odd group has a median rollout to drop; an even one keeps all. With +-1 rewards the median absolute deviation is
    mostly 0, and the division would give thousands: the sample deviation replaces it then, and is counted.

    >>> result = McGrpo().compute([GroupView("p", (1, -1, -1))])[0]  # median -1, MAD 0, deviation 1.155
    >>> [round(value, 3) for value in result.values], result.dropped, result.num_bounded
    ([1.731, 0.0, 0.0], frozenset({1}), 3)
    """

    takes_punishments = True
    min_rollouts = 2

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        return [self._one(group.rewards) for group in groups]

    def _one(self, rewards: tuple[float, ...]) -> Advantages:
        centre = median(rewards)
        dropped = frozenset({rewards.index(centre)} if len(rewards) % 2 else ())
        if min(rewards) == max(rewards):
            return Advantages((0.0,) * len(rewards), dropped=dropped)
        scale = median([abs(r - centre) for r in rewards])
        guarded = scale == 0
        if guarded:
            scale = sample_deviation(rewards)
        values = tuple((r - centre) / (scale + MAD_EPS) for r in rewards)
        return Advantages(values, num_bounded=len(rewards) if guarded else 0, dropped=dropped)


@advantage("qae")
class Qae(Estimator):
    """A_i = (r_i - Q_K) / (sd + eps), Q_K the lower K-quantile of the group, K = .4 (arXiv 2509.22611).

    With +-1 rewards the baseline is -1 on hard prompts (success below 1 - K: only successes teach) and 1 on easy ones.

    >>> [round(value, 3) for value in Qae().compute([GroupView("p", (1, -1, -1, -1))])[0].values]  # deviation 1
    [2.0, 0.0, 0.0, 0.0]
    """

    takes_punishments = True
    min_rollouts = 2

    def __init__(self, *, quantile: float = 0.4) -> None:
        """`quantile` K in (0, 1); else `ValueError`."""
        if not 0 < quantile < 1:
            raise ValueError(f"quantile must be in (0, 1), got {quantile}")
        self._quantile = quantile

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        results = []
        for group in groups:
            baseline = lower_quantile(group.rewards, self._quantile)
            scale = sample_deviation(group.rewards) + EPS
            results.append(Advantages(tuple((r - baseline) / scale for r in group.rewards)))
        return results
