"""Share out a fixed number of rollouts so that the sum of their worth is greatest."""

from collections.abc import Sequence
from itertools import pairwise


def allot(worth: Sequence[Sequence[float]], total: int) -> list[int]:
    """How many of `total` >= 0 each prompt gets; worth[i][j] is the worth of j rollouts to prompt i, j = 0 .. its cap.

    Takes the steepest pieces of every prompt's upper concave hull first, so it is exact where worth is concave, and
    else up to the last piece that does not fit whole (textbook greedy allocation). All of `total` is spent while there
    is room; equals share evenly. Worth may be in any unit. Time O(n log n), n the sum of caps.

    Raises:
        ValueError: for a total below 0.

    >>> allot([[0, 5, 6, 6.5], [0, 3, 5, 6]], 3)  # steps worth 5, 1, .5 and 3, 2, 1
    [1, 2]
    """
    if total < 0:
        raise ValueError(f"total must be >= 0, got {total}")
    pieces = [(-slope, start, i, end) for i, values in enumerate(worth) for slope, start, end in _hull(values)]
    pieces.sort()
    shares = [0] * len(worth)
    for _, start, i, end in pieces:
        # A prompt whose earlier piece did not fit is not at `start`, and gets no later one.
        if shares[i] == start and end - start <= total:
            shares[i] = end
            total -= end - start
    while total:
        room = [i for i, values in enumerate(worth) if shares[i] < len(values) - 1]
        if not room:
            break
        best = max(room, key=lambda i: (worth[i][shares[i] + 1] - worth[i][shares[i]], -shares[i], -i))
        shares[best] += 1
        total -= 1
    return shares


def _hull(values: Sequence[float]) -> list[tuple[float, int, int]]:
    """(slope, start, end) of the upper concave hull over 0 .. len - 1; straight runs stay unit pieces."""
    corners = [0]
    for j in range(1, len(values)):
        while len(corners) > 1:
            first, second = corners[-2], corners[-1]
            rise = (values[second] - values[first]) * (j - second)
            if rise >= (values[j] - values[second]) * (second - first):
                break
            corners.pop()
        corners.append(j)
    return [((values[end] - values[start]) / (end - start), start, end) for start, end in pairwise(corners)]
