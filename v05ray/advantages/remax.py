"""The greedy rollout's reward as baseline: remax."""

from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups


@advantage("remax")
class Remax(Estimator):
    """A_i = r_i - r(greedy) (arXiv 2310.10505). Unbiased; costs one more rollout per prompt.

    >>> Remax().compute([GroupView("p", (1, -1), greedy_reward=1)])[0].values
    (0, -2)
    """

    needs = frozenset({"greedy"})

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone; `ConfigError` for an unmet need."""
        check_groups(self, groups)
        results = []
        for group in groups:
            baseline = group.greedy_reward
            assert baseline is not None  # check_groups has seen it
            results.append(Advantages(tuple(r - baseline for r in group.rewards)))
        return results
