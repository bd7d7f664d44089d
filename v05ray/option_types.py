"""Whether an option's value is of the type that its builder's signature gives. Standard library only."""

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}


def typed(value: Any, annotation: Any) -> Any:
    """`value` as `annotation` has it: 10.0 for an `int` is 10. Types that are not known here take any value.

    Raises `ValueError` that says what was expected, such as `expected a whole number or null`.
    """
    alternatives = _alternatives(annotation)
    for one in alternatives:
        fits, found = _fitted(value, one)
        if fits:
            return found
    raise ValueError(f"expected {' or '.join(map(_described, alternatives))}")


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [one for part in get_args(annotation) for one in _alternatives(part)]
    return [types.NoneType if annotation is None else annotation]


def _fitted(value: Any, kind: Any) -> tuple[bool, Any]:
    """(whether it fits, the value as the kind has it)."""
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind), value
    if kind in (int, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind is int and isinstance(value, float):
            return number and value.is_integer(), int(value) if value.is_integer() else value
        return number, value
    if kind in (bool, str, types.NoneType):
        return isinstance(value, kind), value
    bare = origin or kind
    if isinstance(bare, type) and issubclass(bare, Mapping):
        return isinstance(value, Mapping), value
    if isinstance(bare, type) and issubclass(bare, Sequence):
        if isinstance(value, str) or not isinstance(value, Sequence):
            return False, value
        inner = [one for one in get_args(kind)[:1] if one is not Ellipsis]
        return all(_fits_any(one, inner[0]) for one in value) if inner else True, value
    return True, value


def _fits_any(value: Any, annotation: Any) -> bool:
    return any(_fitted(value, one)[0] for one in _alternatives(annotation))


def _described(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    bare = get_origin(kind) or kind
    if isinstance(bare, type) and issubclass(bare, Mapping):
        return "a mapping"
    inner = "".join(f" of {_described(one)}" for one in get_args(kind)[:1] if one in _WORDS)
    return f"a list{inner}"
