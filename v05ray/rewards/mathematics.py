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
_EXACT_FROM = 10**9
_MOST_EXACT_DIGITS = 3000
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
    return _with_imaginary_unit(parsed[0]) if parsed else None


def _with_imaginary_unit(value: Any) -> Any:
    """An `i` that is alone with numbers is the imaginary unit; among other symbols it may be an index or a current."""
    if not isinstance(value, sympy.Expr) or {symbol.name for symbol in value.free_symbols} != {"i"}:  # type: ignore[attr-defined]
        return value
    return value.subs(dict.fromkeys(value.free_symbols, sympy.I))


_DEGREES = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s*[({]?\s*(\d+(?:\.\d+)?)\s*\^\{\\circ\}\s*[)}]?")


def degrees_to_radians(text: str) -> str:
    r"""latex2sympy drops the sign of degrees, also inside of functions: `\tan 30^{\circ}` is \tan(30\pi/180)."""
    return _DEGREES.sub(r"\1(\\frac{\2\\pi}{180})", text)


def _is_finite(value: Any) -> bool:
    """`1/0` is `zoo`, which equals nothing; infinity itself may be an answer."""
    return value is not sympy.nan and value is not sympy.zoo and value is not None


def _compare_numbers(wanted: str, given: str, a: Any, b: Any, timeout_s: int, tolerance: float | None) -> bool | None:
    """Two numbers by value, to 30 digits; None where one of them is no number.

    math-verify rounds to six places, so .0000001 and .0000002 would be equal.
    """
    from math_verify.utils import timeout

    if not (_is_number(a) and _is_number(b)):
        return None
    if a.is_extended_real is False or b.is_extended_real is False:
        parts = [timeout(timeout_seconds=timeout_s)(_real_and_imaginary)(x) for x in (a, b)]
        if parts[0] is None or parts[1] is None:
            return None
        size = max(map(abs, [*parts[0], *parts[1]]))
        return all(abs(x - y) <= Fraction(1, 10**20) * size for x, y in zip(*parts, strict=True))  # type: ignore[arg-type]
    one, other = (timeout(timeout_seconds=timeout_s)(_evaluate)(x) for x in (a, b))
    if one is None or other is None:
        return None
    largest = max(abs(one), abs(other))
    if abs(one - other) <= Fraction(1, 10**20) * largest:
        return largest < _EXACT_FROM or timeout(timeout_seconds=timeout_s)(_equal_to_the_last_digit)(a, b)
    if tolerance is not None and abs(one - other) <= tolerance:
        return True
    decimals = [(read_number(text), exact) for text, exact in ((wanted, other), (given, one))]
    return any(_is_decimal(decimal) and rounds_to(decimal, exact) for decimal, exact in decimals)  # type: ignore[arg-type]


def _equal_to_the_last_digit(a: Any, b: Any) -> bool:
    """Of large numbers, in which 30 digits are not all: `10^{51}` and `10^{51} - 1` are two."""
    try:
        difference = sympy.N(a - b, 2, maxn=_MOST_EXACT_DIGITS)
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
        return False
    return bool(a == b or (difference.is_number and abs(difference) < Fraction(1, 10**10)))


def _is_decimal(number: WrittenNumber | None) -> bool:
    return number is not None and number.digits is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and not value.free_symbols


def _real_and_imaginary(value: Any) -> tuple[Fraction, Fraction] | None:
    try:
        real, imaginary = (_evaluate(part) for part in sympy.N(value, _DIGITS, chop=True).as_real_imag())
    except (ValueError, TypeError, ArithmeticError, AttributeError, RecursionError):
        return None
    return None if real is None or imaginary is None else (real, imaginary)


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
