"""Moments and quantiles of a few numbers, and running ones of many. Textbook formulas, in the unit of their values."""

import math
from collections.abc import Mapping, Sequence


def mean(values: Sequence[float]) -> float:
    """(1/n) sum v_i of values[n >= 1], correctly rounded (`math.fsum`), so it does not depend on the order.

    Raises:
        ValueError: without values.

    >>> mean([1, -1, -1, -1])
    -0.5
    """
    if not values:
        raise ValueError("the mean of no values is undefined")
    return math.fsum(values) / len(values)


def sample_variance(values: Sequence[float]) -> float:
    """sum (v_i - mean)^2 / (n - 1) >= 0 of values[n >= 2], unbiased, in squared units of the values.

    Raises:
        ValueError: for fewer than two values.

    >>> sample_variance([1, -1, -1, -1])
    1.0
    """
    if len(values) < 2:
        raise ValueError(f"the sample variance needs >= 2 values, got {len(values)}")
    centre = mean(values)
    return math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)


def sample_deviation(values: Sequence[float]) -> float:
    """Square root of `sample_variance`, so values[n >= 2]; >= 0, in the unit of the values.

    Raises:
        ValueError: for fewer than two values.

    >>> sample_deviation([1, -1, -1, -1])
    1.0
    """
    return math.sqrt(sample_variance(values))


def median(values: Sequence[float]) -> float:
    """The middle one of values[n >= 1]; the mean of the two middle ones where n is even.

    Raises:
        ValueError: without values.

    >>> median([3, 1, 2]), median([4, 1, 2, 3])
    (2, 2.5)
    """
    if not values:
        raise ValueError("the median of no values is undefined")
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def lower_quantile(values: Sequence[float], share: float) -> float:
    """inf {v : F(v) >= share} of values[n >= 1], always one of them; share in (0, 1].

    Raises:
        ValueError: without values, or for a share out of range.

    >>> lower_quantile([1, 2, 3, 4, 5], 0.4), lower_quantile([1, 2, 3, 4, 5], 0.41)
    (2, 3)
    """
    if not values:
        raise ValueError("a quantile of no values is undefined")
    if not 0 < share <= 1:
        raise ValueError(f"a quantile's share must be in (0, 1], got {share}")
    ordered = sorted(values)
    # The tiny slack keeps .4 of 5 at the second value, although .4 * 5 may round above 2.
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


class RunningMean:
    """Exponentially decayed mean: every weight is multiplied by `decay` before each new value's weight is added.

    decay in (0, 1]: 1 keeps everything; the effective memory is 1 / (1 - decay) values. `total` is the decayed sum of
    weight * value, `weight` >= 0 that of the weights. A decay out of range raises `ValueError`.

    >>> recent = RunningMean(0.5)
    >>> recent.add(1.0)
    >>> recent.add(-1.0)
    >>> round(recent.value(default=0.0), 4)
    -0.3333
    """

    __slots__ = ("decay", "total", "weight")

    def __init__(self, decay: float = 1.0, *, total: float = 0.0, weight: float = 0.0) -> None:
        """`decay` in (0, 1], else `ValueError`; `total` and `weight` >= 0 are what was counted before."""
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {decay}")
        self.decay = decay
        self.total = total
        self.weight = weight

    def add(self, value: float, weight: float = 1.0) -> None:
        """Multiply what was counted by the decay, then count `value` with `weight` >= 0."""
        self.total = self.decay * self.total + weight * value
        self.weight = self.decay * self.weight + weight

    def value(self, default: float) -> float:
        """The mean, or `default` while nothing has been counted."""
        return self.total / self.weight if self.weight > 0 else default

    def state_dict(self) -> dict[str, float]:
        """JSON-able; the decay is a setting and not part of it."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """What `state_dict` gave; a missing or unknown key in `state` raises `ValueError`."""
        if set(state) != {"total", "weight"}:
            raise ValueError(f"a running mean's state is total and weight, got {sorted(state)}")
        self.total = float(state["total"])
        self.weight = float(state["weight"])
