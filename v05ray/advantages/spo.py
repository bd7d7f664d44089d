"""A running baseline per prompt: spo."""

from collections.abc import Mapping, Sequence
from typing import Any

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.stats.history import BetaCounts
from v05ray.stats.state import check_state


@advantage("spo")
class Spo(Estimator):
    """A_i = r_i - (2 a / (a + b) - 1), discounted Beta counts per prompt from earlier steps (arXiv 2509.13232).

    The baseline has seen none of the group, so it is unbiased even with one rollout. Take it where prompts come back.
    """

    def __init__(self, *, discount: float = 0.9, initial: float = 0.5, capacity: int = 1_000_000) -> None:
        """`discount` in (0, 1] per visit; `initial` > 0 counts of each outcome; `capacity` prompts remembered."""
        if not (discount > 0 and initial > 0):
            raise ValueError(f"needs discount > 0 and initial counts > 0, got {discount} and {initial}")
        self._history = BetaCounts(discount=discount, initial=(initial, initial), capacity=capacity)

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """See the class."""
        check_groups(self, groups)
        results = []
        for group in groups:
            baseline = 2 * self._history.mean(group.prompt_id) - 1
            results.append(Advantages(tuple(r - baseline for r in group.rewards)))
        return results

    def observe(self, groups: Sequence[GroupView]) -> None:
        """Count every group for its prompt."""
        for group in sorted(groups, key=lambda g: g.prompt_id):
            self._history.add(group.prompt_id, sum(group.rewards), len(group.rewards))

    def state_dict(self) -> dict[str, Any]:
        """The counts of every prompt."""
        return {"history": self._history.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        check_state(f"advantage {self.name!r}", state, {"history"})
        self._history.load_state_dict(state["history"])
