"""Success rates: an estimate from few outcomes, and how far predicted rates are from observed ones."""

from collections.abc import Sequence
from typing import TypeVar

NUM_BINS = 10
"""Equal-width bins of a predicted rate."""
N = TypeVar("N", bound=float)


def laplace_rate(total: N, count: int) -> N:
    """(total + 1) / (count + 2) in (0, 1): Laplace's rule of succession, 1/2 for no outcomes.

    `total` is the sum of `count` outcomes in [0, 1]: `laplace_rate(3.0, 4) == 4 / 6`.
    """
    return (total + 1) / (count + 2)  # type: ignore[return-value]  # numpy's numbers stay numpy's


def expected_calibration_error(pairs: Sequence[tuple[float, float]], num_bins: int = NUM_BINS) -> float:
    """ECE = sum over bins of (n_b / n) |mean p - mean observed|, equal-width bins of p in [0, 1]; 0 for no pairs.

    `pairs` are (p, observed rate), both in [0, 1] (Naeini et al., AAAI 2015). One bin that says .2 twice for 0 and 1,
    a second that says .9 and 1.0 for 1 and 1: `(2 * .3 + 2 * .05) / 4`.
    """
    bins: dict[int, tuple[int, float]] = {}
    for p, observed in pairs:
        index = min(num_bins - 1, int(p * num_bins))
        count, gap = bins.get(index, (0, 0.0))
        bins[index] = count + 1, gap + p - observed
    return sum(abs(gap) for _, gap in bins.values()) / len(pairs) if pairs else 0.0
