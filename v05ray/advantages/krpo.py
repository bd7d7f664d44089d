"""A Kalman filter over rewards as baseline: krpo."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from v05ray.advantages.base import Advantages, Estimator, GroupView, advantage, check_groups
from v05ray.stats.state import check_state


@advantage("krpo")
class Krpo(Estimator):
    """A_i = (r_i - x) / sqrt(P): a scalar Kalman filter of past rewards and of the group's own (arXiv 2505.07527).

    Per reward: P <- P + Q; gain = P / (P + R); x <- x + gain (r - x); P <- (1 - gain) P. Each group starts from the
    state after the last step, so groups do not wait for each other. P falls to about sqrt(Q R) = 3e-4, so advantages
    are large (tens): the gradient's clip sets their scale.
    """

    def __init__(
        self, *, process_noise: float = 1e-5, reward_noise: float = 1e-2, mean: float = 0.0, variance: float = 1.0
    ) -> None:
        """Q >= 0 and R > 0, and the state to start from: x in [-1, 1], P > 0."""
        if not (process_noise >= 0 and reward_noise > 0 and -1 <= mean <= 1 and variance > 0):
            raise ValueError(
                "needs process_noise >= 0, reward_noise > 0, -1 <= mean <= 1, variance > 0; "
                f"got {process_noise}, {reward_noise}, {mean}, {variance}"
            )
        self._process_noise, self._reward_noise = process_noise, reward_noise
        self._state = (mean, variance)

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """See the class."""
        check_groups(self, groups)
        results = []
        for group in groups:
            x, variance = self._filter(self._state, group.rewards)
            results.append(Advantages(tuple((r - x) / math.sqrt(variance) for r in group.rewards)))
        return results

    def observe(self, groups: Sequence[GroupView]) -> None:
        """Filter the batch's rewards, in the order of the prompts' names: the groups' own order is chance."""
        for group in sorted(groups, key=lambda g: g.prompt_id):
            self._state = self._filter(self._state, group.rewards)

    def _filter(self, state: tuple[float, float], rewards: Sequence[float]) -> tuple[float, float]:
        x, variance = state
        for reward in rewards:
            variance += self._process_noise
            gain = variance / (variance + self._reward_noise)
            x += gain * (reward - x)
            variance *= 1 - gain
        return x, variance

    def state_dict(self) -> dict[str, Any]:
        """x and P."""
        return {"mean": self._state[0], "variance": self._state[1]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        check_state(f"advantage {self.name!r}", state, {"mean", "variance"})
        self._state = (float(state["mean"]), float(state["variance"]))
