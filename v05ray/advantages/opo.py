"""The length-weighted mean as baseline: opo."""

import math
from collections.abc import Sequence

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups


@advantage("opo")
class Opo(Estimator):
    """A_i = r_i - sum(T_j r_j) / sum(T_j), T the response lengths (arXiv 2505.23585).

    The variance-optimal baseline where the squared gradient norm grows like the length.

    >>> Opo().compute([GroupView("p", (1, -1), lengths=(30, 10))])[0].values  # baseline (30 - 10) / 40
    (0.5, -1.5)
    """

    takes_punishments = True
    needs = frozenset({"lengths"})
    min_rollouts = 2

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, each from its group alone.

        Raises:
            ConfigError: for an unmet need.
            ValueError: for a group without a single token.
        """
        check_groups(self, groups)
        return [Advantages(self._values(group)) for group in groups]

    def _values(self, group: GroupView) -> tuple[float, ...]:
        assert group.lengths is not None  # check_groups has seen them
        total = sum(group.lengths)
        if total <= 0:
            raise ValueError(f"opo weighs by length, but all responses of {group.prompt_id!r} are empty")
        pairs = zip(group.lengths, group.rewards, strict=True)
        baseline = math.fsum(length * reward for length, reward in pairs) / total
        return tuple(r - baseline for r in group.rewards)
