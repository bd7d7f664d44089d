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
    state after the last step, so groups do not wait for each other. P decreases to about sqrt(Q R) = 3e-4, so
    advantages are large (tens): the gradient's clip sets their scale.

    >>> krpo = Krpo(process_noise=0.0, reward_noise=1.0, mean=0.0, variance=1.0)
    >>> [round(value, 3) for value in krpo.compute([GroupView("p", (1, -1, -1))])[0].values]  # x = -1/4, P = 1/4
    [2.5, -1.5, -1.5]
    """

    def __init__(
        self, *, process_noise: float = 1e-5, reward_noise: float = 1e-2, mean: float = 0.0, variance: float = 1.0
    ) -> None:
        """`process_noise` Q >= 0, `reward_noise` R > 0 (both squared reward), and the initial state.

        That is `mean` x in [-1, 1] and `variance` P > 0, in squared reward. Raises `ValueError` for others.
        """
        if not (process_noise >= 0 and reward_noise > 0 and -1 <= mean <= 1 and variance > 0):
            raise ValueError(
                "needs process_noise >= 0, reward_noise > 0, -1 <= mean <= 1, variance > 0; "
                f"got {process_noise}, {reward_noise}, {mean}, {variance}"
            )
        self._process_noise, self._reward_noise = process_noise, reward_noise
        self._state = (mean, variance)

    def compute(self, groups: Sequence[GroupView]) -> list[Advantages]:
        """One `Advantages` per group, in order, from the group and the past; `ConfigError` for an unmet need."""
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
        """What `state_dict` gave; other keys in `state` raise `ValueError`."""
        check_state(f"advantage {self.name!r}", state, {"mean", "variance"})
        self._state = (float(state["mean"]), float(state["variance"]))
