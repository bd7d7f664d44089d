"""Values as JSON between processes that do not trust each other: plain data, exactly; all else by handle or not at all.

Whatever arrives becomes plain data and nothing else: no code of the sender's runs where it is read. `True`, numbers and
text are themselves; the others a list that begins with a tag: `["l", [1, 2]]` is a list, `["t", [1, 2]]` a tuple.
"""

import datetime
import json
import math
import sys
from collections import Counter, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

_LARGE = 2000
"""Bits above which an integer travels in base 16: in base 10 its length is limited, and the time quadratic."""

Export = Callable[[Any], Any]
Import = Callable[[Any], Any]


class NotPlain(TypeError):
    """A value that cannot be passed on."""


def _refuse(value: Any) -> Any:
    raise NotPlain(f"a {type(value).__name__} cannot be passed on")


def encode(value: Any, export: Export = _refuse) -> Any:
    """What `json.dumps` takes. Subclasses of plain types are sent as these; what is none goes through `export`."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        whole = int(value)
        return whole if whole.bit_length() < _LARGE else ["i", hex(whole)]
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else ["f", repr(number)]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return ["c", repr(complex(value))]
    if isinstance(value, bytes):
        return ["b", bytes(value).hex()]
    if isinstance(value, bytearray):
        return ["a", value.hex()]
    return _encode_many(value, export)


def _encode_many(value: Any, export: Export) -> Any:
    for tag, kind in _KINDS.items():
        if isinstance(value, kind):
            return [tag, [encode(item, export) for item in kind.__iter__(value)]]
    if isinstance(value, deque):
        return ["q", [encode(item, export) for item in value], value.maxlen]
    if isinstance(value, dict):
        tag = "C" if isinstance(value, Counter) else "d"
        return [tag, [[encode(key, export), encode(item, export)] for key, item in dict.items(value)]]
    if isinstance(value, range):
        return ["r", [value.start, value.stop, value.step]]
    if isinstance(value, Fraction):
        return ["F", [encode(value.numerator), encode(value.denominator)]]
    if isinstance(value, Decimal):
        return ["D", str(value)]
    for tag, kind in (("dt", datetime.datetime), ("dd", datetime.date), ("dh", datetime.time)):
        if type(value) is kind:
            return [tag, value.isoformat()]
    if type(value) is datetime.timedelta:
        return ["td", [value.days, value.seconds, value.microseconds]]
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.generic):
        return encode(value.item(), export)
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in "biufcSU":
        return ["n", value.dtype.str, encode(value.tolist(), export)]
    return export(value)


UNREADABLE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What `decode` raises for what `encode` does not make."""


def decode(wired: Any, take: Import = _refuse) -> Any:
    """The value again; handles go through `take`. Raises one of `UNREADABLE`."""
    if not isinstance(wired, list):
        if isinstance(wired, dict):
            raise ValueError("not a value")
        return wired
    if not wired:
        raise ValueError("not a value")
    tag, *rest = wired
    if tag in _KINDS:
        return _KINDS[tag]([decode(item, take) for item in rest[0]])
    if tag == "q":
        return deque((decode(item, take) for item in rest[0]), rest[1])
    if tag in ("d", "C"):
        pairs = {decode(key, take): decode(item, take) for key, item in rest[0]}
        return Counter(pairs) if tag == "C" else pairs
    if tag in _ONE:
        return _ONE[tag](rest[0])
    if tag == "n":
        import numpy

        return numpy.array(decode(rest[1], take), dtype=rest[0])
    return take(wired)


_KINDS: dict[str, Any] = {"l": list, "t": tuple, "s": set, "z": frozenset}
_ONE: dict[str, Callable[[Any], Any]] = {
    "i": lambda text: int(text, 16),
    "f": float,
    "c": complex,
    "b": bytes.fromhex,
    "a": bytearray.fromhex,
    "r": lambda bounds: range(*bounds),
    "F": lambda parts: Fraction(*map(decode, parts)),
    "D": Decimal,
    "dt": datetime.datetime.fromisoformat,
    "dd": datetime.date.fromisoformat,
    "dh": datetime.time.fromisoformat,
    "td": lambda parts: datetime.timedelta(*parts),
}


def dump(message: Any) -> bytes:
    """A message as one line of JSON."""
    return json.dumps(message).encode() + b"\n"
