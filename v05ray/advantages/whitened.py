"""Advantages whitened over the whole batch: reinforce_pp, reinforce_pp_baseline (arXiv 2501.03262).

Each rollout counts once, whatever its length.
"""

from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.advantages.group_mean import EPS
from v05ray.errors import ConfigError
from v05ray.stats.moments import mean, sample_deviation


def _whiten(name: str, rows: Sequence[tuple[float, ...]]) -> list[Advantages]:
    """(x - mean) / (sd + eps) over all rollouts of the batch, sd with n - 1."""
    flat = [value for row in rows for value in row]
    if len(flat) < 2:
        raise ConfigError(f"{name} whitens over the batch and needs >= 2 rollouts in it, got {len(flat)}")
    centre, scale = mean(flat), sample_deviation(flat) + EPS
    return [Advantages(tuple((value - centre) / scale for value in row)) for row in rows]


@advantage("reinforce_pp")
class ReinforcePlusPlus(Estimator):
    """A_i = r_i, whitened over the batch.

    >>> batch = [GroupView("a", (1, -1)), GroupView("b", (-1, -1))]  # mean -.5, deviation 1
    >>> [[round(value, 3) for value in one.values] for one in ReinforcePlusPlus().compute(batch)]
    [[1.5, -0.5], [-0.5, -0.5]]
    """

    takes_punishments = True
    scope = "batch"

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order; `groups` is the whole batch. `ConfigError` for an unmet need."""
        check_groups(self, groups)
        return _whiten(self.name, [group.rewards for group in groups])


@advantage("reinforce_pp_baseline")
class ReinforcePlusPlusBaseline(Estimator):
    """A_i = r_i - mu of the group, whitened over the batch.

    >>> batch = [GroupView("a", (1, -1)), GroupView("b", (-1, -1))]  # centred: 1, -1, 0, 0; deviation sqrt(2/3)
    >>> [[round(value, 3) for value in one.values] for one in ReinforcePlusPlusBaseline().compute(batch)]
    [[1.225, -1.225], [0.0, 0.0]]
    """

    takes_punishments = True
    scope = "batch"
    min_rollouts = 2

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order; `groups` is the whole batch. `ConfigError` for an unmet need."""
        check_groups(self, groups)
        centred = []
        for group in groups:
            mu = mean(group.rewards)
            centred.append(tuple(r - mu for r in group.rewards))
        return _whiten(self.name, centred)
