r"""What is written beside a number: units of measurement, and words. Standard library only.

A missing unit is no fault, for questions often name it; another unit is: `20 cm` and `20` are equal, `20 cm` and `20 m`
are not. Words that are no unit (`9 (apples)`, `34 dollars`) say nothing.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from v05ray.rewards.numbers import read_value, read_words

_NAMES = {
    "m": "meter meters metre metres",
    "cm": "centimeter centimeters centimetre centimetres",
    "mm": "millimeter millimeters millimetre millimetres",
    "km": "kilometer kilometers kilometre kilometres",
    "nm": "nanometer nanometers",
    "um": "micrometer micrometers micron microns",
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
    "mA": "milliampere milliamperes",
    "ohm": "ohms",
    "K": "kelvin kelvins",
    "C": "celsius coulomb coulombs",
    "F": "fahrenheit",
    "Hz": "hertz",
    "kHz": "kilohertz",
    "MHz": "megahertz",
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
    "T": "tesla",
}
_UNITS = {word: unit for unit, words in _NAMES.items() for word in (unit, *words.split())}
_WORDS = {word.casefold(): unit for word, unit in _UNITS.items() if len(word) > 2}
"""Units whose case says nothing: `Meters`; `M` is no metre."""
_SPEEDS = ((re.compile(r"\bmph\b"), "mi / h"), (re.compile(r"\b(?:kph|kmh|kmph)\b"), "km / h"))
_SCALES: dict[str, tuple[str, Fraction]] = {
    unit: (base, Fraction(factor))
    for base, scales in {
        "m": "m 1 cm 1/100 mm 1/1000 km 1000 nm 1/1000000000 um 1/1000000 in 0.0254 ft 0.3048 yd 0.9144 mi 1609.344",
        "g": "g 1 kg 1000 mg 1/1000 lb 453.59237 oz 28.349523125",
        "s": "s 1 ms 1/1000 min 60 h 3600 day 86400 week 604800",
        "month": "month 1 year 12",
        "l": "l 1 ml 1/1000",
        "J": "J 1 kJ 1000 erg 1/10000000",
        "W": "W 1 kW 1000",
        "V": "V 1 mV 1/1000",
        "A": "A 1 mA 1/1000",
        "Hz": "Hz 1 kHz 1000 MHz 1000000",
        "Pa": "Pa 1 kPa 1000",
        "eV": "eV 1 keV 1000 MeV 1000000 GeV 1000000000",
        "cent": "cent 1 dollar 100",
    }.items()
    for unit, factor in zip(scales.split()[::2], scales.split()[1::2], strict=True)
}
_FACTORS = {"square": "^2", "sq": "^2", "cubic": "^3", "cu": "^3"}
_VALUE = re.compile(
    r"""^\s*(
      [+-]?\s*[\d./]*\s*\\sqrt\{[^{}]*\}
    | [+-]?\s*[\d./]*\s*\\pi(?![A-Za-z])
    | [+-]?\s*(?:\d[\d,]*(?:\.\d+)?|\.\d+)
        (?:\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?[+-]?\d+\}?|[eE][+-]?\d+(?![A-Za-z]))?
        (?:\s+\d+\s*/\s*\d+|\s*/\s*\d+|\s*\\frac\{\d+\}\{\d+\})?(?:\s*%)?
    | [+-]?\s*\\frac\{[^{}]*\}\{[^{}]*\}
    )\s*(.*?)\s*$""",
    re.VERBOSE | re.DOTALL,
)
_WORD = re.compile(r"(?<![A-Za-z])(?=[A-Za-z]*[aeiouAEIOU])[A-Za-z]{3,}|[\u4e00-\u9fff]")
_MOST_POWER = 9
_MOST_CHARS = 200
_COUNTED = re.compile(r"(hundred|thousand|million|billion|trillion|dozen)\b\s*(.*)", re.IGNORECASE | re.DOTALL)
_UNIT_LAST = re.compile(r"(.*[\w)}])\s+(?<![\\A-Za-z])([A-Za-z]{2,}(?:\^\{\d\})?)\s*", re.DOTALL)
_UNIT_FRACTION = re.compile(r"\\frac\{\s([A-Za-z]+)\s\}\{\s([A-Za-z]+)\s\}")
_OTHER_SCRIPT = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Measured:
    """A value, and the unit beside it."""

    value: str
    unit: str
    """In one way of writing; empty where there are words and no unit."""


def split_unit(text: str) -> Measured | None:
    r"""A normalised text of a value and words or a unit behind it; None where it is no such thing.

    `20 cm^{2}`, `9 (apples)`, `5 m/s`, `90^{\circ}`, `\frac{3}{4} hours`, `2.5 m s^{-1}`, `34 apples in all`. A letter
    right behind a number is a symbol (`5m`, `2x`), a unit of several letters is one (`5cm`).
    """
    if len(text) > _MOST_CHARS:
        return None
    found = _VALUE.match(text)
    if not found:
        return _counted_in_words(text) or _behind_expression(text)
    value, rest = found.groups()
    rest = _UNIT_FRACTION.sub(r"\1/\2", rest)
    if not rest or re.search(r"[=<>&\d]|\\(?!circ|cdot|mu|Omega|AA|text)", re.sub(r"\^\{?\s*-?\d+\s*\}?", "", rest)):
        return _behind_expression(text)
    touching = not text[: len(text) - len(rest)].endswith(" ")
    if rest[0] in "+-*/^_!|" and not rest.startswith("^{\\circ}"):
        return _behind_expression(text)
    if re.match(r"(?:and|or)\b", rest):
        return None
    if counted := _COUNTED.match(rest):
        value, rest = f"{value.strip()} {counted.group(1)}", counted.group(2)
        if not rest or read_value(value) is None:
            return None
    words = rest.strip(" ()[].,")
    unit = unit_name(words)
    if touching and (unit is None or re.match(r"[A-Za-z](?![A-Za-z])", rest)):
        return Measured(value.strip(), "") if _OTHER_SCRIPT.match(rest) else _behind_expression(text)
    if unit is None and not (rest.startswith("(") and len(words) > 1 and words.isalpha()) and not _WORD.search(words):
        return None  # letters without a vowel or fewer than three are symbols: `2 x`, `3 ab`
    return Measured(value.strip(), unit or "")


def _behind_expression(text: str) -> Measured | None:
    r"""`6+2\sqrt{3} cm`, `3x cm^{2}`: a unit of several letters behind an expression without words."""
    found = _UNIT_LAST.fullmatch(text)
    if not found or re.search(r"(?<![\\A-Za-z])[A-Za-z]{3,}|[=<>,;:]", found.group(1)):
        return None
    unit = unit_name(found.group(2))
    return None if unit is None else Measured(found.group(1).strip(), unit)


_FACTOR_WORDS = re.compile(
    r"(?:squared|cubed|times|plus|minus|percent|to|or|and|over|point|factorial|divided|of|less|more|hundred|thousand)\b"
)


def _counted_in_words(text: str) -> Measured | None:
    """`six apples`, `twenty-one hours`."""
    words = text.split()
    if not 2 <= len(words) <= 6 or not re.fullmatch(r"[A-Za-z\s-]+", text):
        return None
    for end in range(len(words) - 1, 0, -1):
        number = read_words(" ".join(words[:end]))
        if number is not None:
            rest = " ".join(words[end:])
            return None if _FACTOR_WORDS.match(rest) else Measured(str(number.value), unit_name(rest) or "")
    return None


def unit_name(text: str) -> str | None:
    r"""A unit in one way of writing: `meters per second` m/s, `square inches` in^2; None for what is no unit."""
    text = text.replace("^{\\circ}", " deg ").replace("\\circ", " deg ").replace("\\Omega", "ohm")
    text = re.sub(r"\\mu\s*", "u", text)
    for name, spelt in _SPEEDS:
        text = name.sub(spelt, text)
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
    if "deg" in pieces and ("C" in pieces or "F" in pieces):
        pieces.remove("deg")  # `degrees Celsius`
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


@dataclass(frozen=True, slots=True)
class BaseUnits:
    """A unit in terms of base units: `km/h` is 1000/3600 of m s^-1."""

    kind: tuple[tuple[str, int], ...]
    factor: Fraction


def in_base_units(unit: str) -> BaseUnits | None:
    """Of a unit as `unit_name` gives it; None where one in it is of no known scale."""
    powers: dict[str, int] = {}
    factor = Fraction(1)
    for piece in unit.split():
        name, _, power = piece.partition("^")
        if name not in _SCALES or abs(int(power or 1)) > _MOST_POWER:
            return None
        base, scale = _SCALES[name]
        exponent = int(power or 1)
        powers[base] = powers.get(base, 0) + exponent
        factor *= scale**exponent
    return BaseUnits(tuple(sorted(powers.items())), factor)


def equal_quantities(wanted: Measured, given: Measured) -> bool:
    """`5 km` and `5000 m`; False too where the units are of different kinds, or the values not written out."""
    a, b = in_base_units(wanted.unit), in_base_units(given.unit)
    one, other = read_value(wanted.value), read_value(given.value)
    if a is None or b is None or one is None or other is None or a.kind != b.kind:
        return False
    return one.value * a.factor == other.value * b.factor


_COMPOUND = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)(?:\s*(?:,|and)\s+)?\s*")


def equal_compounds(wanted: str, given: str) -> bool | None:
    """`1 hour 30 minutes`, `90 minutes` and `1.5 hours` are one; None where neither has several units."""
    a, b = _compound(wanted), _compound(given)
    if a is None and b is None:
        return None
    one, other = a or split_unit(wanted), b or split_unit(given)
    return one is not None and other is not None and equal_quantities(one, other)


def _compound(text: str) -> Measured | None:
    """A quantity of several units of one kind, in its base unit."""
    if len(text) > 80:
        return None
    pieces, position = [], 0
    while position < len(text):
        piece = _COMPOUND.match(text, position)
        if piece is None:
            return None
        pieces.append(piece.groups())
        position = piece.end()
    units = [in_base_units(unit_name(name) or "") for _, name in pieces]
    if len(pieces) < 2 or any(unit is None or not unit.kind or unit.kind != units[0].kind for unit in units):  # type: ignore[union-attr]
        return None
    factors = [unit.factor for unit in units if unit is not None]
    if factors != sorted(set(factors), reverse=True):
        return None
    total = sum((Fraction(value) * factor for (value, _), factor in zip(pieces, factors, strict=True)), Fraction(0))
    ((base, power),) = units[0].kind  # type: ignore[union-attr, misc]
    return Measured(str(total), base) if power == 1 else None
