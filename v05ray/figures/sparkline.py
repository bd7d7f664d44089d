"""A curve in one line of text. Standard library only."""

import math
from collections.abc import Sequence
from itertools import pairwise

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], *, low: float | None = None, high: float | None = None, width: int = 40) -> str:
    """One character per value, lowest to highest (or `low` to `high`); more than `width` values are averaged in runs.

    A value that is not finite is a space; values that are all equal sit in the middle.
    """
    shown = _thin(values, width)
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return " " * len(shown)
    bottom = min(finite) if low is None else low
    top = max(finite) if high is None else high
    return "".join(_bar(value, bottom, top) if math.isfinite(value) else " " for value in shown)


def _bar(value: float, bottom: float, top: float) -> str:
    share = (value - bottom) / (top - bottom) if top > bottom else 0.5
    return _BARS[min(len(_BARS) - 1, max(0, int(share * len(_BARS))))]


def _thin(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    runs = [values[a:b] for a, b in pairwise(edges)]
    return [sum(run) / len(run) for run in runs]
