r"""Conditions and set-builders become unions of intervals. Standard library only."""

import re

_BOUND = r"\s*((?:[^<>=,\\]|\\(?!le|ge|neq|cup|in(?![A-Za-z])|to)[A-Za-z]+)+?)\s*"
_LESS = r"(<|\\le(?![A-Za-z]))"
_LESS_OR_MORE = r"(<|>|\\le(?![A-Za-z])|\\ge(?![A-Za-z]))"
_VARIABLE = r"\s*([A-Za-z]|\\[a-z]+)\s*"
_ONE_SIDED = re.compile(rf"{_VARIABLE}{_LESS_OR_MORE}{_BOUND}")
_TWO_SIDED = re.compile(rf"{_BOUND}{_LESS}{_VARIABLE}{_LESS}{_BOUND}")
_OR = re.compile(r"\s*,?\s+or\s+|\s*(?:或|\\cup(?![A-Za-z])|\\lor(?![A-Za-z]))\s*")
_BUILDER = re.compile(r"\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:)\s*(.+?)\s*\\\}")
_REVERSED = re.compile(r"\]([^\[\],;]+[,;][^\[\],;]+)\[")


def as_union(text: str) -> str:
    r"""`x<-1 or x>3` as (-\infty,-1)\cup(3,\infty), `\{x | x>3\}` as x>3, `]1,2[` as (1,2); all else as it is."""
    if found := _BUILDER.fullmatch(text):
        text = found.group(2)
    if found := _REVERSED.fullmatch(text):
        text = f"({found.group(1)})"
    pieces = _OR.split(text)
    if len(pieces) < 2:
        return text
    read = [_interval(piece) for piece in pieces]
    if any(one is None for one in read) or len({variable for variable, _ in read}) != 1:  # type: ignore[misc]
        return text
    return r"\cup ".join(interval for _, interval in read)  # type: ignore[misc]


def _interval(text: str) -> tuple[str, str] | None:
    """The variable of a condition, and its interval."""
    if found := _TWO_SIDED.fullmatch(text):
        low, opening, variable, closing, high = found.groups()
        return variable, f"{'(' if opening == '<' else '['}{low},{high}{')' if closing == '<' else ']'}"
    found = _ONE_SIDED.fullmatch(text)
    if not found:
        return None
    variable, relation, bound = found.groups()
    if relation in ("<", r"\le"):
        return variable, rf"(-\infty ,{bound}{')' if relation == '<' else ']'}"
    return variable, rf"{'(' if relation == '>' else '['}{bound},\infty )"
