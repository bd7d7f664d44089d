r"""math-verify and sympy, for one value against one value, and the checks on what they say.

Times itself by SIGALRM: main thread only, whole seconds.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import math_verify
import sympy
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
from math_verify import LatexExtractionConfig

from v05ray.rewards.numbers import WrittenNumber, read_number, rounds_to

_AS_IT_IS = LatexExtractionConfig(
    # Units were taken off before; left to math-verify, the h of `\pi r^2 h` would be hours and go.
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
    )
)
_DIGITS = 30
"""Of numerical evaluation; far beyond what any answer is written with."""


def equal(wanted: str, given: str, timeout_s: int, tolerance: float | None = None) -> bool:
    """Two normalised values; raises math-verify's `TimeoutException`. What cannot be evaluated is not equal."""
    a, b = _parse(wanted, timeout_s), _parse(given, timeout_s)
    if a is None or b is None:
        return False
    if not _is_finite(a) or not _is_finite(b):
        return False
    numbers = _compare_numbers(wanted, given, a, b, timeout_s, tolerance)
    if numbers is not None:
        return numbers
    try:
        return bool(
            math_verify.verify([a], [b], timeout_seconds=timeout_s, raise_on_error=True, allow_set_relation_comp=True)
        )
    except (ValueError, TypeError, ArithmeticError, AttributeError, NotImplementedError, RecursionError):
        return False  # sympy's own failure: text was compared before, and differs


@lru_cache(maxsize=2048)
def _parse(text: str, timeout_s: int) -> Any:
    """The sympy object; None where latex2sympy cannot read the text."""
    parsed = math_verify.parse(
        f"${degrees_to_radians(text)}$",
        [_AS_IT_IS],
        fallback_mode="no_fallback",
        parsing_timeout=timeout_s,
        raise_on_error=True,
    )
    return parsed[0] if parsed else None


_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]?\s*(\d+(?:\.\d+)?)\s*\^\{\\circ\}\s*[)}]?")


def degrees_to_radians(text: str) -> str:
    r"""latex2sympy drops the sign of degrees, also inside of functions: `\tan 30^{\circ}` is \tan(30\pi/180)."""
    return _DEGREES.sub(r"\1(\\frac{\2\\pi}{180})", text)


def _is_finite(value: Any) -> bool:
    """`1/0` is `zoo`, which equals nothing; infinity itself may be an answer."""
    return value is not sympy.nan and value is not sympy.zoo and value is not None


def _compare_numbers(wanted: str, given: str, a: Any, b: Any, timeout_s: int, tolerance: float | None) -> bool | None:
    """Two numbers by value, to 30 digits; None where one of them is no real number.

    math-verify rounds to six places, so .0000001 and .0000002 would be equal.
    """
    from math_verify.utils import timeout

    if not (_is_number(a) and _is_number(b)):
        return None
    one, other = (timeout(timeout_seconds=timeout_s)(_evaluate)(x) for x in (a, b))
    if one is None or other is None:
        return None
    if abs(one - other) <= Fraction(1, 10**20) * max(abs(one), abs(other)):
        return True
    if tolerance is not None and abs(one - other) <= tolerance:
        return True
    decimals = [(read_number(text), exact) for text, exact in ((wanted, other), (given, one))]
    return any(_is_decimal(decimal) and rounds_to(decimal, exact) for decimal, exact in decimals)  # type: ignore[arg-type]


def _is_decimal(number: WrittenNumber | None) -> bool:
    return number is not None and number.digits is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and not value.free_symbols and value.is_extended_real is not False


def _evaluate(value: Any) -> Fraction | None:
    try:
        number = sympy.N(value, _DIGITS)
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
        return None
    if not isinstance(number, sympy.Float) and not isinstance(number, sympy.Rational):
        return None
    try:
        return Fraction(str(number)) if isinstance(number, sympy.Float) else Fraction(int(number.p), int(number.q))
    except ValueError:
        return None
