"""Whether what a program gave is what was expected. Standard library only."""

import math
import re
from collections.abc import Sequence
from typing import Any

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def same_output(given: str, expected: str, tolerance: float) -> bool:
    """Equal line by line but for white space at their ends, and empty lines at the end of all.

    Where a line differs, its words are compared: numbers of which one has a point or exponent by `tolerance`, absolute
    below 1 and relative above, all else as text.
    """
    ours, theirs = _lines(given), _lines(expected)
    if len(ours) != len(theirs):
        return False
    return all(a == b or _same_words(a.split(), b.split(), tolerance) for a, b in zip(ours, theirs, strict=True))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _same_words(ours: Sequence[str], theirs: Sequence[str], tolerance: float) -> bool:
    return len(ours) == len(theirs) and all(
        a == b or _same_number_words(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def _same_number_words(a: str, b: str, tolerance: float) -> bool:
    if not (_NUMBER.fullmatch(a) and _NUMBER.fullmatch(b)):
        return False
    if a.lstrip("+-").isdigit() and b.lstrip("+-").isdigit():
        return False  # integers are equal as text
    return _close(float(a), float(b), tolerance)


def _close(a: float, b: float, tolerance: float) -> bool:
    return math.isfinite(a) and math.isfinite(b) and abs(a - b) <= tolerance * max(1.0, abs(b))


def same_value(given: Any, expected: Any, tolerance: float) -> bool:
    """Equal data, where `expected` was read from JSON: tuples are lists, keys of mappings are text.

    Floats are compared by `tolerance` as in `same_output`; `True` equals 1, as in Python.
    """
    if isinstance(expected, list):
        return (
            isinstance(given, list | tuple)
            and len(given) == len(expected)
            and all(same_value(a, b, tolerance) for a, b in zip(given, expected, strict=True))
        )
    if isinstance(expected, dict):
        if not isinstance(given, dict):
            return False
        named = {key if isinstance(key, str) else str(key): value for key, value in given.items()}
        return named.keys() == expected.keys() and all(
            same_value(named[key], value, tolerance) for key, value in expected.items()
        )
    if isinstance(expected, float) or isinstance(given, float):
        if not isinstance(given, int | float) or not isinstance(expected, int | float):
            return False
        try:
            return given == expected or _close(float(given), float(expected), tolerance)
        except OverflowError:
            return False
    return given == expected
