"""Moments and quantiles of a few numbers, and running ones of many."""

import math
from collections.abc import Mapping, Sequence


def mean(values: Sequence[float]) -> float:
    """(1/n) sum v_i, correctly rounded (`math.fsum`), so it does not depend on the order; needs n >= 1."""
    if not values:
        raise ValueError("the mean of no values is undefined")
    return math.fsum(values) / len(values)


def sample_variance(values: Sequence[float]) -> float:
    """sum (v_i - mean)^2 / (n - 1), unbiased; needs n >= 2."""
    if len(values) < 2:
        raise ValueError(f"the sample variance needs >= 2 values, got {len(values)}")
    centre = mean(values)
    return math.fsum((v - centre) ** 2 for v in values) / (len(values) - 1)


def sample_deviation(values: Sequence[float]) -> float:
    """Square root of `sample_variance`."""
    return math.sqrt(sample_variance(values))


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones where n is even."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def lower_quantile(values: Sequence[float], share: float) -> float:
    """inf {v : F(v) >= share}, always one of the values; share in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"a quantile's share must be in (0, 1], got {share}")
    ordered = sorted(values)
    # The tiny slack keeps .4 of 5 at the second value, although .4 * 5 may round above 2.
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


class RunningMean:
    """Exponentially decayed mean: every weight is multiplied by `decay` before each new value's weight is added.

    decay = 1 keeps everything; the effective memory is 1 / (1 - decay) values.
    """

    __slots__ = ("decay", "total", "weight")

    def __init__(self, decay: float = 1.0, *, total: float = 0.0, weight: float = 0.0) -> None:
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {decay}")
        self.decay = decay
        self.total = total
        self.weight = weight

    def add(self, value: float, weight: float = 1.0) -> None:
        """Forget a little, then count `value` with `weight`."""
        self.total = self.decay * self.total + weight * value
        self.weight = self.decay * self.weight + weight

    def value(self, default: float) -> float:
        """The mean, or `default` while nothing has been counted."""
        return self.total / self.weight if self.weight > 0 else default

    def state_dict(self) -> dict[str, float]:
        """JSON-able; the decay is a setting and not part of it."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """What `state_dict` gave; a missing or unknown key raises `ValueError`."""
        if set(state) != {"total", "weight"}:
            raise ValueError(f"a running mean's state is total and weight, got {sorted(state)}")
        self.total = float(state["total"])
        self.weight = float(state["weight"])
