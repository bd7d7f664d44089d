r"""Numbers that are written out, read exactly, without a library: `1,234`, `4.5e33`, `\frac{3}{4}`, `1 1/4`, `six`.

Most answers are such numbers, and two of them are compared as fractions. What is no such number gives None.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MOST_DIGITS = 400
"""Longer numbers, and powers of ten beyond it, are left to mathematics: an exact fraction of them is no use."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_PLAIN = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_POWER = r"(?:\s*(?:\\times|\\cdot|\*|x|X)\s*10\s*\^\s*(?:\{\s*([+-]?\s*\d+)\s*\}|([+-]?\d+))|[eE]\s*([+-]?\d+))"
_SIGN = r"\s*([+-]?)\s*"
_DECIMAL = re.compile(rf"{_SIGN}({_PLAIN}){_POWER}?\s*")
_TEN = re.compile(rf"{_SIGN}10\s*\^\s*\{{\s*([+-]?\s*\d+)\s*\}}\s*")
_PART = rf"\s*[+-]?\s*{_PLAIN}\s*"
_FRACTION = re.compile(rf"{_SIGN}(?:\\frac\s*\{{({_PART})\}}\s*\{{({_PART})\}}|({_PLAIN})\s*/\s*({_PLAIN}))\s*")
_MIXED = re.compile(
    rf"{_SIGN}({_DIGITS})(?:\s*\\frac\s*\{{\s*(\d+)\s*\}}\s*\{{\s*(\d+)\s*\}}|(?:\s+|\s+and\s+)(\d+)\s*/\s*(\d+))\s*"
)
_REPEATING = re.compile(rf"{_SIGN}(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{{(\d+)\}}\s*")
_ELLIPSIS = re.compile(rf"{_SIGN}(\d*)\.(\d*?)(\d)\4{{2,}}\s*(?:\.\.\.|\\ldots)\s*")
_PERIOD_IN_PARENTHESES = re.compile(rf"{_SIGN}(\d*)\.(\d*)\((\d+)\)\s*")
_ORDINAL = re.compile(r"(\d+)\s?(?:st|nd|rd|th)", re.IGNORECASE)
_SPACED = re.compile(r"\s*[+-]?\d{1,3}(?: \d{3})+(?:\.\d+)?\s*")


@dataclass(frozen=True, slots=True)
class WrittenNumber:
    """A number and how it was written."""

    value: Fraction
    digits: int | None = None
    """Significant digits, where it is a decimal (of a point or a power of ten); None for what is exact."""
    percent: bool = False
    """Whether a percent sign followed; `value` is what was before it."""


def read_number(text: str) -> WrittenNumber | None:
    r"""The number that a normalised text is, and nothing else; None where it is none.

    `1,234`, `-3.50`, `.5`, `025`, `4.5e33`, `4.5 \times 10^{33}`, `10^{-3}`, `3/4`, `\frac{3}{4}`, `1\frac{1}{4}`,
    `1 1/4`, `0.\overline{3}`, `0.333...`, `0.(3)`, `15%`, `10 080`, `15th`. `1, 234` and `1,23` are none.
    """
    text = text.strip()
    if not text or len(text) > MOST_DIGITS:
        return None
    if text.endswith("%"):
        number = read_number(text[:-1])
        return None if number is None or number.percent else WrittenNumber(number.value, number.digits, True)
    if text[0] in "([" and text[-1] in ")]" and (inner := _in_parentheses(text)) is not None:
        return read_number(inner)
    if found := _ORDINAL.fullmatch(text):
        text = found.group(1)
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    for form, read in _FORMS:
        if found := form.fullmatch(text):
            return read(found)
    return None


def _in_parentheses(text: str) -> str | None:
    inner = text[1:-1]  # with a comma it is a pair: `(1,234)`
    return inner if text[0] == "(" and text[-1] == ")" and not re.search("[(),]", inner) else None


def _decimal(found: re.Match[str]) -> WrittenNumber | None:
    sign, plain, *powers = found.groups()
    exponent = next((power.replace(" ", "") for power in powers if power is not None), None)
    if exponent is not None and abs(int(exponent)) > MOST_DIGITS:
        return None
    plain = plain.replace(",", "")
    value = Fraction(plain if not plain.endswith(".") else plain[:-1]) * Fraction(10) ** int(exponent or 0)
    is_exact = "." not in plain.rstrip(".") and exponent is None
    digits = None if is_exact else len(plain.replace(".", "").lstrip("0")) or 1
    return WrittenNumber(-value if sign == "-" else value, digits)


def _ten(found: re.Match[str]) -> WrittenNumber | None:
    sign, power = found.groups()
    exponent = int(power.replace(" ", ""))
    if abs(exponent) > MOST_DIGITS:
        return None
    return WrittenNumber((-1 if sign == "-" else 1) * Fraction(10) ** exponent)


def _fraction(found: re.Match[str]) -> WrittenNumber | None:
    sign, *parts = found.groups()
    top, bottom = (Fraction(part.replace(",", "").replace(" ", "").rstrip(".")) for part in parts if part is not None)
    if bottom == 0:
        return None
    return WrittenNumber((-1 if sign == "-" else 1) * top / bottom)


def _mixed(found: re.Match[str]) -> WrittenNumber | None:
    sign, whole, *parts = found.groups()
    top, bottom = (int(part) for part in parts if part is not None)
    if bottom == 0:
        return None
    value = int(whole.replace(",", "")) + Fraction(top, bottom)
    return WrittenNumber(-value if sign == "-" else value)


def _repeating(found: re.Match[str]) -> WrittenNumber | None:
    sign, whole, fixed, period = found.groups()
    value = Fraction(int(whole or 0)) + Fraction(int(fixed or 0), 10 ** len(fixed))
    value += Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return WrittenNumber(-value if sign == "-" else value)


_FORMS = (
    (_TEN, _ten),
    (_DECIMAL, _decimal),
    (_FRACTION, _fraction),
    (_MIXED, _mixed),
    (_REPEATING, _repeating),
    (_ELLIPSIS, _repeating),
    (_PERIOD_IN_PARENTHESES, _repeating),
)

FEWEST_DIGITS = 6
"""Significant digits from which on a rounded decimal counts as the number that it rounds."""


def rounds_to(decimal: WrittenNumber, exact: Fraction) -> bool:
    """Whether a decimal of six or more significant digits is `exact` rounded, or cut off, at its own last digit.

    .333333 and 1/3 are equal, .3333 and 1/3 are not; 1.00000e-8 and 1.00001e-8 are not. The digits are significant
    ones and not places, so small numbers are as different as large ones.
    """
    if decimal.digits is None or decimal.digits < FEWEST_DIGITS or decimal.value == 0:
        return False
    unit = Fraction(10) ** (_magnitude(decimal.value) - decimal.digits + 1)
    error = abs(exact) - abs(decimal.value)
    return (exact > 0) == (decimal.value > 0) and -unit / 2 <= error < unit


def _magnitude(value: Fraction) -> int:
    """Of the first significant digit: 0 for 1 to 9.99, -1 for .1."""
    value = abs(value)
    power = len(str(value.numerator)) - len(str(value.denominator))
    return power if value >= Fraction(10) ** power else power - 1


def equal_numbers(wanted: WrittenNumber, given: WrittenNumber) -> bool:
    r"""Whether two numbers are the same, with percent signs as people use them.

    A wanted `10\%` is also 10 and .1; a wanted 10 is also 10 %, and so is .1, but .1 is not .1 %.
    """
    if wanted.percent == given.percent:
        return _same(wanted, given)
    if wanted.percent:
        return _same(wanted, given) or _same(_hundredth(wanted), given)
    whole = wanted.value.denominator == 1 and wanted.value != 0
    return _same(wanted, _hundredth(given)) or (whole and _same(wanted, given))


def _same(a: WrittenNumber, b: WrittenNumber) -> bool:
    if a.value == b.value:
        return True
    if a.digits is not None and (b.digits is None or a.digits < b.digits):
        return rounds_to(a, b.value)
    return b.digits is not None and (a.digits is None or b.digits < a.digits) and rounds_to(b, a.value)


def _hundredth(number: WrittenNumber) -> WrittenNumber:
    return WrittenNumber(number.value / 100, number.digits)


_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_ONES = tuple(_TO_NINETEEN.split())
_TENS = tuple("twenty thirty forty fifty sixty seventy eighty ninety".split())  # noqa: SIM905
_SMALL = {word: value for value, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_COUNTED = _LARGE | {"hundred": 100, "dozen": 12}
_PARTS = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "thirds": 3,
    "quarter": 4,
    "quarters": 4,
    "fourth": 4,
    "fourths": 4,
    "fifth": 5,
    "fifths": 5,
    "sixth": 6,
    "sixths": 6,
    "eighth": 8,
    "eighths": 8,
    "tenth": 10,
    "tenths": 10,
}


def read_words(text: str) -> WrittenNumber | None:
    """A number in words: `six`, `Twenty-one`, `one hundred and five`, `two thirds`, `six and a half`, `5 million`."""
    words = text.casefold().replace("-", " ").replace(",", " ").split()
    if not words or len(words) > 20:
        return None
    sign = -1 if words[0] in ("minus", "negative") else 1
    words = words[1:] if sign < 0 else words
    if words[-4:-1] and words[-3:] == ["and", "a", "half"]:
        whole = read_value(" ".join(words[:-3]))
        return None if whole is None else WrittenNumber(sign * (whole.value + Fraction(1, 2)))
    if sign < 0 and len(words) == 1 and (number := read_number(words[0])) is not None:
        return WrittenNumber(-number.value, number.digits)
    if words in (["half"], ["quarter"]):
        return WrittenNumber(Fraction(sign, _PARTS[words[0]]))
    if words and words[-1] == "dozen":
        count = 1 if words[:-1] in ([], ["a"], ["one"]) else _whole(words[:-1])
        return None if count is None else WrittenNumber(Fraction(12 * sign * count))
    if len(words) > 1 and words[-1] in _PARTS:
        count = 1 if words[:-1] in (["a"], ["one"]) else _whole(words[:-1])
        return None if count is None else WrittenNumber(Fraction(sign * count, _PARTS[words[-1]]))
    if len(words) == 2 and words[1] in _COUNTED and (number := read_number(words[0])) is not None:
        return WrittenNumber(sign * number.value * _COUNTED[words[1]])
    whole = _whole(words)
    return None if whole is None else WrittenNumber(Fraction(sign * whole))


@lru_cache(maxsize=8192)
def read_value(text: str) -> WrittenNumber | None:
    """A number in figures or in words."""
    return read_number(text) or read_words(text)


def _whole(words: list[str]) -> int | None:
    total = group = 0
    seen = False
    for position, word in enumerate(words):
        if word == "and" and seen and position + 1 < len(words):
            continue
        if word in ("a", "an") and position == 0 and len(words) > 1:
            group = 1
        elif word in _SMALL:
            if seen and words[position - 1] in _ONES:
                return None  # `one two` is no number
            group += _SMALL[word]
        elif word == "hundred":
            group = (group or 1) * 100
        elif word in _LARGE:
            total, group = total + (group or 1) * _LARGE[word], 0
        else:
            return None
        seen = True
    return total + group if seen else None
