r"""Reads a reference answer: which answers are right, and whether it is an answer at all. Standard library only."""

import ast
import json
import re
from functools import lru_cache

from v05ray.rewards.answers import last_boxed
from v05ray.rewards.normalise import closing_brace, normalise, unwrap

_NOTHING = frozenset({"nan", "null", "n/a", "[]", "{}", '""', "-nan", "proof", "notfound", "not found"})
_OR_EQUIVALENTLY = re.compile(
    r",?\s*\(?\b(?:or,?\s+equivalently,?|or\s+an\s+equivalent\s+form\s+such\s+as|equivalently,)\s+", re.IGNORECASE
)
_SPACE_LAST = re.compile(r"(?:\\\s*)+$")
_MOST_WORDS = 25
"""An answer has fewer words than this; a solution in prose has more."""


class UnreadableReference(ValueError):
    """A reference answer that no response can equal; the verdict is `unreadable`."""


@lru_cache(maxsize=8192)
def read_reference(answer: str) -> tuple[str, ...]:
    r"""The answers any of which is right; raises `UnreadableReference`.

    A list as JSON text, `["3", "4"]`, holds alternatives; `[3, 4]` is an interval, as text has it. Several values
    within one text (`5;10`, `3, 4`) are one answer, all of it needed. Of a solution, what follows `####` or is in
    its last box is taken.
    """
    alternatives = _alternatives(answer)
    for one in alternatives:
        _check(one)
    return alternatives


def _alternatives(answer: str) -> tuple[str, ...]:
    text = answer.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if items is None and text[1:2] in "'\"":
            items = _python_list(text)
        if isinstance(items, list) and items and any(isinstance(item, str) for item in items):
            return tuple(one for item in items for one in _equivalents(_text(item)))
    return _equivalents(_text(text))


def _python_list(text: str) -> object:
    """As Python prints a list of texts, which CSV files often hold."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _equivalents(text: str) -> tuple[str, ...]:
    """`sqrt(3)/3, or equivalently 1/sqrt(3)` names two ways of writing one answer."""
    ways = tuple(way.strip() for way in _OR_EQUIVALENTLY.split(text) if way.strip())
    return ways if len(ways) > 1 else (text,)


def _text(item: object) -> str:
    text = item if isinstance(item, str) else json.dumps(item)
    if "####" in text:
        text = text.rsplit("####", 1)[1]
    text = _SPACE_LAST.sub("", text).strip()
    if "\\boxed" in text and (boxed := last_boxed(text)) and not _is_boxed_whole(text):
        text = boxed
    return text


def _is_boxed_whole(text: str) -> bool:
    return "\\boxed" not in unwrap(text)


def _check(text: str) -> None:
    if text.casefold() in _NOTHING or text == "None":
        raise UnreadableReference(f"the reference answer {text!r} is no answer; drop the row")
    if not _has_content(text):
        raise UnreadableReference(f"the reference answer {text!r:.60} is empty; drop the row")
    if not _braces_match(text):
        raise UnreadableReference(f"the braces of the reference answer {text!r:.60} do not match; correct the row")
    words = re.findall(r"(?<![\\A-Za-z])[A-Za-z]{2,}", text)
    if len(words) > _MOST_WORDS:
        raise UnreadableReference(
            f"the reference answer {text!r:.60} is prose of {len(words)} words, not an answer; "
            "set data.answer_field to the field of the final answer"
        )


def _has_content(text: str) -> bool:
    return bool(re.search(r"\w|\\[A-Za-z]|[^\x00-\x7f]", normalise(text)))


def _braces_match(text: str) -> bool:
    """As those of a box around the text would have to."""
    boxed = f"{text}}}"
    return closing_brace(boxed, 0) == len(boxed) - 1
