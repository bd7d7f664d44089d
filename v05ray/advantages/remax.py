"""The greedy rollout's reward as baseline: remax."""

from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups


@advantage("remax")
class Remax(Estimator):
    """A_i = r_i - r(greedy) (arXiv 2310.10505). Unbiased; costs one more rollout per prompt."""

    needs = frozenset({"greedy"})

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """See the class."""
        check_groups(self, groups)
        results = []
        for group in groups:
            baseline = group.greedy_reward
            assert baseline is not None  # check_groups has seen it
            results.append(Advantages(tuple(r - baseline for r in group.rewards)))
        return results
