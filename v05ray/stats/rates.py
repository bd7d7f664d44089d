"""Success rates: an estimate from few outcomes (textbook), and how far predicted rates are from observed ones."""

from collections.abc import Sequence
from typing import TypeVar

NUM_BINS = 10
"""Equal-width bins of a predicted rate."""
N = TypeVar("N", bound=float)


def laplace_rate(total: N, count: int) -> N:
    """(total + 1) / (count + 2) in (0, 1): Laplace's rule of succession, 1/2 for no outcomes.

    `total` is the sum of `count` >= 0 outcomes in [0, 1].

    >>> round(laplace_rate(3.0, 4), 3)
    0.667
    """
    return (total + 1) / (count + 2)  # type: ignore[return-value]  # numpy's numbers stay numpy's


def expected_calibration_error(pairs: Sequence[tuple[float, float]], num_bins: int = NUM_BINS) -> float:
    """ECE = sum over bins of (n_b / n) |mean p - mean observed|, equal-width bins of p in [0, 1]; 0 for no pairs.

    `pairs` are (p, observed rate), both in [0, 1]; `num_bins` >= 1 (Naeini et al., AAAI 2015).

    >>> pairs = [(0.2, 0), (0.2, 1), (0.95, 1), (1.0, 1)]  # one bin is .3 off, the other .025
    >>> round(expected_calibration_error(pairs), 4)
    0.1625
    """
    bins: dict[int, tuple[int, float]] = {}
    for p, observed in pairs:
        index = min(num_bins - 1, int(p * num_bins))
        count, gap = bins.get(index, (0, 0.0))
        bins[index] = count + 1, gap + p - observed
    return sum(abs(gap) for _, gap in bins.values()) / len(pairs) if pairs else 0.0
