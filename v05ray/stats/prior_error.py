"""How wrong was the prior recently? The variance tau2 that `shrinkage.fuse_eb` weighs by (ours)."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from v05ray.stats.moments import mean


def squared_error(prior: float, rewards: Sequence[float]) -> float:
    """Unbiased estimate of (V - E r)^2 from `rewards` r[k >= 2]: (V - mu)^2 - sum (r_i - mu)^2 / (k (k - 1)).

    `prior` is V in [-1, 1]. The second term is the noise of mu; for +-1 rewards it equals (1 - mu^2) / (k - 1). The
    estimate is in squared reward and may be negative.

    Raises:
        ValueError: for fewer than two rewards.

    >>> squared_error(1.0, [1, -1, -1, -1])  # 1.5^2 - 3 / 12
    2.0
    >>> squared_error(0.0, [1, -1])
    -1.0
    """
    k = len(rewards)
    if k < 2:
        raise ValueError(f"the prior's error needs >= 2 rewards, got {k}; raise budget.rule.cold_start")
    mu = mean(rewards)
    return (prior - mu) ** 2 - math.fsum((r - mu) ** 2 for r in rewards) / (k * (k - 1))


class PriorError:
    """tau2 = max(0, mean of `squared_error` over the `window` most recent groups).

    While fewer than `warm_groups` groups were seen, `initial` replaces the missing ones, so that the first group
    alone does not decide. Give each group's cold-start rewards only: later ones were drawn because of what the first
    ones showed, and would bias the estimate.

    >>> error = PriorError(window=2, initial=0.16, warm_groups=0)
    >>> error.add(1.0, [1, -1, -1, -1])
    >>> error.add(1.0, [1, 1])
    >>> error.tau2, error.num_groups
    (1.0, 2)
    """

    def __init__(self, *, window: int = 512, initial: float = 0.16, warm_groups: int = 32) -> None:
        """`window` >= 1 and `warm_groups` >= 0 groups; `initial` in [0, 4], in squared reward. Else `ValueError`.

        `initial` = .16 is an error of .4 rms on [-1, 1], the middle of what value models show.
        """
        if window < 1 or warm_groups < 0 or not 0 <= initial <= 4:
            raise ValueError(
                f"needs window >= 1, warm_groups >= 0, 0 <= initial <= 4; got {window}, {warm_groups}, {initial}"
            )
        self.initial = initial
        self.warm_groups = min(warm_groups, window)
        self._errors: deque[float] = deque(maxlen=window)
        self._tau2: float | None = None  # worked out when asked for, once per step

    @property
    def num_groups(self) -> int:
        """Groups in the window."""
        return len(self._errors)

    @property
    def tau2(self) -> float:
        """The current estimate in [0, 4], in squared reward."""
        if self._tau2 is None:
            missing = max(0, self.warm_groups - len(self._errors))
            count = missing + len(self._errors)
            total = math.fsum(self._errors) + missing * self.initial
            self._tau2 = max(0.0, total / count) if count else self.initial
        return self._tau2

    def add(self, prior: float, rewards: Sequence[float]) -> None:
        """Count one group: its `prior` in [-1, 1] as it was used, and its cold-start `rewards`[k >= 2] in [-1, 1]."""
        self._errors.append(squared_error(prior, rewards))
        self._tau2 = None

    def state_dict(self) -> dict[str, Any]:
        """JSON-able: the errors in the window, oldest first."""
        return {"errors": list(self._errors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; keeps the most recent `window` errors. Other keys in `state` raise `ValueError`."""
        if set(state) != {"errors"}:
            raise ValueError(f"a prior error's state is its errors, got {sorted(state)}")
        self._errors.clear()
        self._errors.extend(float(error) for error in state["errors"])
        self._tau2 = None
