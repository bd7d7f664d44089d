r"""The structure of an answer: one value, or several, and how they are enclosed. Standard library only.

`5;10`                 ordered values (the blanks of a cloze)
`3, 5`, `3 and 5`      values in any order (the solutions of an equation)
`(1, 2)`, `[1, 2)`     a tuple or an interval
`\{1, 2\}`             a set
`x = 5`, `f(x) = 2x`   a value with the name that it is given
"""

import re
from dataclasses import dataclass
from typing import Literal

from v05ray.rewards.normalise import MOST_CHARS
from v05ray.rewards.numbers import read_number

Order = Literal["any", "given"]
_SEPARATORS: tuple[tuple[str, Order], ...] = ((";", "given"), (",", "any"))


@dataclass(frozen=True, slots=True)
class Answer:
    """A normalised answer, taken apart."""

    text: str
    """All of it."""
    items: tuple["Answer", ...] = ()
    """The values, where there are several; empty for one value."""
    opening: str = ""
    """`(`, `[`, `{` or empty; with `closing`, how the values are enclosed."""
    closing: str = ""
    order: Order = "any"
    name: str = ""
    """Left of an equals sign, where that is a name alone; `text` is then what is right of it."""


_MOST_DEPTH = 8
_CLOSING = {"(": ")]", "[": ")]", "{": "}"}
_WORD_BETWEEN = re.compile(r"\s+(?:and|or|AND|OR|和|或|与)\s+|(?<=[\d)}\]])\s*(?:和|或|与|及)\s*")
_NAME = re.compile(
    r"\s*((?:[A-Za-z]|\\(?!(?:frac|sqrt|text|left|pi|infty|begin|log|ln|sin|cos|tan|exp)(?![a-z]))[A-Za-z]+)"
    r"(?:[A-Za-z'\s]|\\[a-z]+\s|_\{[^{}]*\}|\^\{-1\})*(?:\([A-Za-z0-9,\s]*\))?|\\frac\s*\{\s*d\s*[A-Za-z]\s*\}\{\s*d\s*[A-Za-z]\s*\})\s*(=|\\in(?![A-Za-z])|:=|\\approx)\s*"
)
_NAMES = re.compile(r"\(\s*[A-Za-z](?:_\{\w+\})?(?:\s*,\s*[A-Za-z](?:_\{\w+\})?)+\s*\)\s*=\s*(?=[(\\])")
"""Of a tuple: `(x, y) = (2, 3)`."""
_ARITHMETIC = re.compile(r"(?:[^A-Za-z]|\\(?:times|cdot|frac|sqrt|pi|div)(?![A-Za-z]))*=")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?%?")
_CHAIN = re.compile(r"(?<![<>!\\:])=(?!=)")


def take_apart(text: str, depth: int = 0) -> Answer:
    """The structure of a normalised answer; what is nested deeper than `_MOST_DEPTH` stays in one piece."""
    text = text.strip()
    if (
        depth > _MOST_DEPTH
        or len(text) > MOST_CHARS
        or _GROUPED.fullmatch(text)
        or read_number(text) is not None
        or "\\begin" in text
    ):
        return Answer(text)
    if labelled := _labelled(text):
        return _sequence(text, labelled, "given", depth)
    for separator, order in _SEPARATORS:
        pieces = _split(text, separator)
        if len(pieces) > 1:
            return _sequence(text, pieces, order, depth)
    if found := _NAMES.match(text):
        text = text[found.end() :].strip()
    if (enclosed := _enclosed(text, depth)) is not None:
        return enclosed
    if found := _NAME.match(text):
        value = text[found.end() :].strip()
        if value and not re.search(r"[<>]|\\(?:le|ge|neq)(?![A-Za-z])", value):
            inner = take_apart(_last_of_chain(value), depth + 1)
            return Answer(inner.text, inner.items, inner.opening, inner.closing, inner.order, _name(found.group(1)))
    if _ARITHMETIC.match(text) and not re.search(r"[<>]", text):
        last = _last_of_chain(text)  # `6 \times 7 = 42`
        if last != text:
            return take_apart(last, depth + 1)
    if "\\pm" in text and text.count("\\pm") == 1 and "=" not in text:
        return Answer(text, tuple(Answer(text.replace("\\pm", sign)) for sign in "+-"))
    return Answer(text)


_LABEL = re.compile(r"(?:^|(?<=[\s;,]))\((\d)\)\s*")


def _labelled(text: str) -> list[str]:
    """The parts of `(1) 5; (2) 7`, without their labels; empty where it is no such thing."""
    labels = list(_LABEL.finditer(text)) if text.startswith("(1)") else []
    if len(labels) < 2 or [label.group(1) for label in labels] != [str(i) for i in range(1, len(labels) + 1)]:
        return []
    ends = [label.start() for label in labels[1:]] + [len(text)]
    parts = [text[label.end() : end].strip(" ;,") for label, end in zip(labels, ends, strict=True)]
    return parts if all(parts) else []


def _name(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _last_of_chain(text: str) -> str:
    r"""`x = 6/2 = 3` ends in 3."""
    return _CHAIN.split(text)[-1].strip() or text


def _sequence(text: str, pieces: list[str], order: Order, depth: int) -> Answer:
    return Answer(text, tuple(take_apart(piece, depth + 1) for piece in pieces), order=order)


def _enclosed(text: str, depth: int) -> Answer | None:
    """A tuple, interval or set; `(5)` and `(x+1)(x-1)` are none."""
    opening, body, closing = _brackets(text)
    if not opening:
        return None
    pieces = _split(body, ";")
    if len(pieces) == 1:
        pieces = _split(body, ",")
    if len(pieces) == 1 and _GROUPED.fullmatch(body.strip()):
        pieces = body.split(",")  # thousands are never alone in brackets: `(1,234)` is a pair
    if len(pieces) == 1 and opening != "{":
        return None
    order: Order = "any" if opening == "{" else "given"
    return Answer(text, tuple(take_apart(piece, depth + 1) for piece in pieces), opening, closing, order)


def _brackets(text: str) -> tuple[str, str, str]:
    r"""Opening, what is inside, and closing, where one pair encloses all; three times nothing otherwise."""
    if text.startswith("\\{") and text.endswith("\\}"):
        opening, body, closing = "{", text[2:-2], "}"
    elif len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        opening, body, closing = text[0], text[1:-1], text[-1]
    else:
        return "", "", ""
    return (opening, body, closing) if _is_balanced(body) else ("", "", "")


def _is_balanced(text: str) -> bool:
    depth = 0
    for character in text.replace("\\{", "{").replace("\\}", "}"):
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _split(text: str, separator: str) -> list[str]:
    """At a separator outside of all brackets, and at `and` or `or`; commas of thousands stay within their numbers."""
    if separator == ",":
        text = re.sub(r",\s*(?:and|or)\s+", ", ", text)
        text = _replace_outside(text, _WORD_BETWEEN, " , ")
    pieces, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == separator and depth == 0:
            if separator == "," and _is_grouping(text, position):
                continue
            pieces.append(text[start:position])
            start = position + 1
    pieces.append(text[start:])
    stripped = [piece.strip() for piece in pieces]
    return stripped if len(stripped) == 1 or all(stripped) else [text]


def _replace_outside(text: str, pattern: re.Pattern[str], by: str) -> str:
    def replaced(found: re.Match[str]) -> str:
        return by if _is_balanced(text[: found.start()]) else found.group()

    return pattern.sub(replaced, text)


def _is_grouping(text: str, position: int) -> bool:
    r"""Whether the comma groups thousands: `5, 1,234` has one that separates and one that groups.

    A text of such numbers alone without spaces, as `100,200`, was read as one number before.
    """
    before = re.search(r"(?:^|[^\d.,])\d{1,3}(?:,\d{3})*$", text[:position])
    return bool(before and re.match(r"\d{3}(?!\d)", text[position + 1 :]))
