"""An advantage estimator: the mean of the other rollouts, shrunk to the prior as if that were some rollouts more.

advantage: {name: python, path: "pseudo_count:PseudoCount", options: {strength: 4}}
"""

from v05ray.advantages import Advantages, Estimator
from v05ray.advantages.base import check_groups


class PseudoCount(Estimator):
    """A_i = r_i - (s V + sum of the others) / (s + k - 1): the baseline does not contain r_i, so it is unbiased."""

    needs = frozenset({"prior"})

    def __init__(self, strength: float = 4.0):
        """`strength` s > 0: how many rollouts the prior V is worth."""
        if not strength > 0:
            raise ValueError(f"strength must be > 0, got {strength}")
        self._strength = strength

    def compute(self, groups):
        """[K] per group, from rewards and prior in [-1, 1]."""
        check_groups(self, groups)
        return [Advantages(tuple(self._values(group.rewards, group.prior))) for group in groups]

    def _values(self, rewards, prior):
        for reward in rewards:
            others = sum(rewards) - reward
            yield reward - (self._strength * prior + others) / (self._strength + len(rewards) - 1)
