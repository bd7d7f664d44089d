"""A running baseline per prompt: spo."""

from collections.abc import Mapping, Sequence
from typing import Any

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.stats.history import BetaCounts
from v05ray.stats.state import check_state


@advantage("spo")
class Spo(Estimator):
    """A_i = r_i - (2 a / (a + b) - 1), discounted Beta counts per prompt from earlier steps (arXiv 2509.13232).

    The baseline has seen none of the group, so it is unbiased even with one rollout. Use it where prompts come back.

    >>> spo = Spo(discount=1.0)
    >>> spo.observe([GroupView("p", (1, 1, 1, -1))])  # a = 3.5, b = 1.5
    >>> [round(value, 3) for value in spo.compute([GroupView("p", (1,)), GroupView("new", (1,))])[0].values]
    [0.6]
    """

    def __init__(self, *, discount: float = 0.9, initial: float = 0.5, capacity: int = 1_000_000) -> None:
        """`discount` in (0, 1] per visit; `initial` > 0 counts of each outcome; `capacity` >= 1 prompts remembered.

        Raises `ValueError` for a value out of range.
        """
        if not (discount > 0 and initial > 0):
            raise ValueError(f"needs discount > 0 and initial counts > 0, got {discount} and {initial}")
        self._history = BetaCounts(discount=discount, initial=(initial, initial), capacity=capacity)

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, from the group and the past; `ConfigError` for an unmet need."""
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
        """What `state_dict` gave; other keys in `state` raise `ValueError`."""
        check_state(f"advantage {self.name!r}", state, {"history"})
        self._history.load_state_dict(state["history"])
