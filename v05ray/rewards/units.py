r"""What stands beside a number: units of measurement, and words. Standard library only.

A missing unit is no fault, for questions often name it; another unit is: `20 cm` and `20` are equal, `20 cm` and `20 m`
are not. Words that are no unit (`9 (apples)`, `34 dollars`) say nothing.
"""

import re
from dataclasses import dataclass

_NAMES = {
    "m": "meter meters metre metres",
    "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres",
    "nm": "nanometer nanometers",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "g": "gram grams",
    "kg": "kilogram kilograms",
    "mg": "milligram milligrams",
    "lb": "pound pounds lbs",
    "oz": "ounce ounces",
    "s": "second seconds sec secs",
    "ms": "millisecond milliseconds",
    "min": "minute minutes mins",
    "h": "hour hours hr hrs",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "l": "liter liters litre litres L",
    "ml": "milliliter milliliters mL",
    "deg": "degree degrees",
    "rad": "radian radians",
    "N": "newton newtons",
    "J": "joule joules",
    "kJ": "kilojoule kilojoules",
    "W": "watt watts",
    "kW": "kilowatt kilowatts",
    "V": "volt volts",
    "mV": "millivolt millivolts",
    "A": "ampere amperes amp amps",
    "K": "kelvin kelvins",
    "C": "celsius",
    "F": "fahrenheit",
    "Hz": "hertz",
    "Pa": "pascal pascals",
    "kPa": "kilopascal kilopascals",
    "mol": "mole moles",
    "eV": "electronvolt electronvolts",
    "MeV": "",
    "keV": "",
    "GeV": "",
    "erg": "ergs",
    "au": "AU",
    "pc": "parsec parsecs",
    "angstrom": "angstroms AA",
    "dollar": "dollars",
    "cent": "cents",
    "euro": "euros",
    "mph": "",
    "T": "tesla",
}
_UNITS = {word: unit for unit, words in _NAMES.items() for word in (unit, *words.split())}
_WORDS = {word.casefold(): unit for word, unit in _UNITS.items() if len(word) > 2}
"""Units whose case says nothing: `Meters`; `M` is no metre."""
_FACTORS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_VALUE = re.compile(
    r"""^\s*(
      [+-]?\s*[\d./]*\s*\\sqrt\{[^{}]*\}
    | [+-]?\s*[\d./]*\s*\\pi(?![A-Za-z])
    | [+-]?\s*(?:\d[\d,]*(?:\.\d+)?|\.\d+)
        (?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?[+-]?\d+\}?|[eE][+-]?\d+(?![A-Za-z]))?
        (?:\s+\d+\s*/\s*\d+|\s*/\s*\d+|\s*\\frac\{\d+\}\{\d+\})?
    | [+-]?\s*\\frac\{[^{}]*\}\{[^{}]*\}
    )\s*(.*?)\s*$""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"(?<![A-Za-z])(?=[A-Za-z]*[aeiouAEIOU])[A-Za-z]{3,}|[\u4e00-\u9fff]")
_OTHER_SCRIPT = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Measured:
    """A value, and the unit that stands beside it."""

    value: str
    unit: str
    """In one way of writing; empty where what stands there is words and no unit."""


def split_unit(text: str) -> Measured | None:
    r"""A normalised text of a value and words or a unit behind it; None where it is no such thing.

    `20 cm^{2}`, `9 (apples)`, `5 m/s`, `90^{\circ}`, `\frac{3}{4} hours`, `2.5 m s^{-1}`, `34 apples in all`. A letter
    right behind a number is a symbol (`5m`, `2x`), a unit of several letters is one (`5cm`).
    """
    found = _VALUE.match(text)
    if not found:
        return None
    value, rest = found.groups()
    if not rest or re.search(r"[=<>&\d]|\\(?!circ|cdot|mu|Omega|AA|text)", re.sub(r"\^\{?\s*-?\d+\s*\}?", "", rest)):
        return None
    touching = not text[: len(text) - len(rest)].endswith(" ")
    if rest[0] in "+-*/^_!|" and not rest.startswith("^{\\circ}"):
        return None
    if re.match(r"(?:and|or)\b", rest):
        return None
    words = rest.strip(" ()[].,")
    unit = unit_name(words)
    if touching and (unit is None or re.match(r"[A-Za-z](?![A-Za-z])", rest)):
        return None if not _OTHER_SCRIPT.match(rest) else Measured(value.strip(), "")
    if unit is None and not (rest.startswith("(") and len(words) > 1 and words.isalpha()) and not _WORD.search(words):
        return None  # letters without a vowel or fewer than three are symbols: `2 x`, `3 ab`
    return Measured(value.strip(), unit or "")


def unit_name(text: str) -> str | None:
    r"""A unit in one way of writing: `meters per second` m/s, `square inches` in^2; None for what is no unit."""
    text = text.replace("^{\\circ}", " deg ").replace("\\circ", " deg ").replace("\\Omega", "ohm").replace("\\mu", "u")
    text = re.sub(r"\b(?:per)\b", "/", text).replace("\\cdot", " ")
    pieces: list[str] = []
    pending = ""
    for word in re.findall(r"[A-Za-z]+|/|\^\s*\{?\s*-?\s*\d+\s*\}?|[^\sA-Za-z/^]+", text):
        if word == "/":
            pieces.append("/")
        elif word.startswith("^"):
            if not pieces:
                return None
            pieces[-1] += "^" + re.sub(r"[\s{}^]", "", word)
        elif word.casefold() in _FACTORS:
            pending = _FACTORS[word.casefold()]
        elif (unit := _UNITS.get(word) or _WORDS.get(word.casefold())) is not None:
            pieces.append(unit + pending)
            pending = ""
        elif re.fullmatch(r"[().*]+", word):
            continue
        else:
            return None
    return " ".join(_with_negative_powers(pieces)) if pieces else None


def _with_negative_powers(pieces: list[str]) -> list[str]:
    """`m / s` and `m s^-1` are one; sorted."""
    below, units = False, []
    for piece in pieces:
        if piece == "/":
            below = True
            continue
        name, _, power = piece.partition("^")
        exponent = int(power or 1) * (-1 if below else 1)
        units.append(name if exponent == 1 else f"{name}^{exponent}")
    return sorted(units)


def units_agree(wanted: str, given: str) -> bool:
    """Whether two units, either of which may be missing, can be the same one."""
    return not wanted or not given or wanted == given
