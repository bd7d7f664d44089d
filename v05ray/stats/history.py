"""What is remembered of each prompt from earlier steps: discounted Beta counts of success and failure."""

from collections.abc import Mapping
from typing import Any

from v05ray.stats.state import check_state


class BetaCounts:
    """(a, b) per key: a <- rho a + successes, b <- rho b + failures, from (a0, b0) on; E p = a / (a + b).

    At most `capacity` keys; the one updated longest ago is forgotten first. A graded reward r in [-1, 1] counts as
    (1 + r) / 2 of a success. Textbook Beta-Bernoulli counts with a discount, as SPO uses them (arXiv 2509.13232).

    >>> history = BetaCounts(discount=0.5, initial=(0.5, 0.5))
    >>> history.add("sum-3", reward_sum=2.0, num_rewards=4)  # three successes, one failure
    >>> history.counts("sum-3"), round(history.mean("sum-3"), 3)
    ((3.25, 1.25), 0.722)
    >>> history.mean("never seen")
    0.5
    """

    def __init__(
        self, *, discount: float = 0.9, initial: tuple[float, float] = (0.5, 0.5), capacity: int = 1_000_000
    ) -> None:
        """`discount` rho in [0, 1] per visit; `initial` (a0, b0), each >= 0; `capacity` >= 1 keys. Else `ValueError`.

        With initial counts of 0 `mean` needs a visit.
        """
        if not (0 <= discount <= 1 and min(initial) >= 0 and capacity >= 1):
            raise ValueError(
                "needs 0 <= discount <= 1, initial counts >= 0 and capacity >= 1; "
                f"got discount={discount}, initial={initial}, capacity={capacity}"
            )
        self._discount, self._initial, self._capacity = discount, initial, capacity
        self._counts: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, key: str) -> bool:
        return key in self._counts

    def counts(self, key: str) -> tuple[float, float]:
        """(a, b), each > 0; the initial ones for an unknown key."""
        return self._counts.get(key, self._initial)

    def mean(self, key: str) -> float:
        """E p = a / (a + b), in (0, 1)."""
        a, b = self.counts(key)
        return a / (a + b)

    def add(self, key: str, reward_sum: float, num_rewards: int) -> None:
        """Count one visit: `num_rewards` >= 1 rewards in [-1, 1] whose sum is `reward_sum`."""
        self.add_successes(key, (num_rewards + reward_sum) / 2, num_rewards)

    def add_successes(self, key: str, successes: float, num_rewards: int) -> None:
        """Count one visit: `successes` in [0, `num_rewards`] of `num_rewards` >= 1, also in parts."""
        a, b = self._counts.pop(key, self._initial)
        self._counts[key] = (self._discount * a + successes, self._discount * b + num_rewards - successes)
        if len(self._counts) > self._capacity:
            del self._counts[next(iter(self._counts))]

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the counts by key, the oldest visit first."""
        return {"counts": {key: list(counts) for key, counts in self._counts.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; keeps the most recent `capacity` keys. Other keys in `state` raise `ValueError`."""
        check_state("Beta counts", state, {"counts"})
        recent = list(state["counts"].items())[-self._capacity :]
        self._counts = {key: (float(a), float(b)) for key, (a, b) in recent}
