r"""Whether a given answer equals the wanted one: by text, by number, by structure, and only then by mathematics.

The order is that of cost and of certainty. math-verify and sympy come last, for one value against one value, and what
they are known to get wrong is kept from them or checked after them; each rule is a function with its cases.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from v05ray.rewards.normalise import MOST_CHARS, normalise, text_key
from v05ray.rewards.numbers import (
    MOST_DIGITS,
    WrittenNumber,
    equal_numbers,
    read_number,
    read_words,
)
from v05ray.rewards.parts import Answer, take_apart
from v05ray.rewards.units import split_unit, units_agree

_MOST_ITEMS = 64


class Equality:
    """Compares answers; `timeout_s` bounds each parse and each comparison of math-verify, in whole seconds.

    `tolerance` (absolute, of decimals) is what a task allows, as OlympiadBench's do.
    """

    def __init__(self, timeout_s: int) -> None:
        self._timeout_s = timeout_s

    def equal(self, wanted: str, given: str, tolerance: float | None = None) -> bool:
        """Both as written. Raises `TimeoutError` where mathematics takes too long."""
        if max(len(wanted), len(given)) > MOST_CHARS:
            return wanted.strip() == given.strip()
        a, b = normalise(wanted), normalise(given)
        if not a or not b:
            return False
        if text_key(a) == text_key(b):
            return True
        if (one := read_value(a)) and (other := read_value(b)):
            return equal_numbers(one, other) or _within(one, other, tolerance)
        by_letters = _by_letters(a, b)
        return self._answers(take_apart(a), take_apart(b), tolerance) if by_letters is None else by_letters

    def _answers(self, wanted: Answer, given: Answer, tolerance: float | None) -> bool:
        if wanted.name and given.name and not _same_name(wanted.name, given.name):
            return False
        if wanted.items or given.items:
            return self._several(wanted, given, tolerance)
        return self._values(wanted.text, given.text, tolerance)

    def _several(self, wanted: Answer, given: Answer, tolerance: float | None) -> bool:
        if text_key(wanted.text) == text_key(given.text):
            return True
        if _is_relation(wanted) != _is_relation(given):  # `x > 3` and `(3, \infty)`
            return self._by_mathematics(wanted.text, given.text, tolerance)
        if not _enclosures_agree(wanted, given):
            return False
        if "\\pm" in wanted.text + given.text and not (wanted.items and given.items):
            return self._values(wanted.text, given.text, tolerance)
        a, b = wanted.items or (wanted,), given.items or (given,)
        if len(a) != len(b) or len(a) > _MOST_ITEMS:
            return False
        if all(self._answers(x, y, tolerance) for x, y in zip(a, b, strict=True)):
            return True
        if wanted.order == "given" or given.opening in ("(", "["):
            return False
        return self._in_any_order(a, b, tolerance)

    def _in_any_order(self, wanted: Sequence[Answer], given: Sequence[Answer], tolerance: float | None) -> bool:
        left = list(given)
        for one in wanted:
            match = next((i for i, other in enumerate(left) if self._answers(one, other, tolerance)), None)
            if match is None:
                return False
            del left[match]
        return True

    def _values(self, wanted: str, given: str, tolerance: float | None) -> bool:
        """One value against one."""
        if text_key(wanted) == text_key(given):
            return True
        if (one := read_value(wanted)) and (other := read_value(given)):
            return equal_numbers(one, other) or _within(one, other, tolerance)
        measured, other_measured = split_unit(wanted), split_unit(given)
        if measured or other_measured:
            if measured and other_measured and not units_agree(measured.unit, other_measured.unit):
                return False
            return self._values(
                measured.value if measured else wanted, other_measured.value if other_measured else given, tolerance
            )
        by_rule = _by_rule(wanted, given)
        return self._by_mathematics(wanted, given, tolerance) if by_rule is None else by_rule

    def _by_mathematics(self, wanted: str, given: str, tolerance: float | None) -> bool:
        if _is_no_mathematics(wanted) or _is_no_mathematics(given):
            return False
        if _differ_in_case(wanted, given) or _differ_in_indices(wanted, given):
            return False
        from math_verify.errors import TimeoutException

        from v05ray.rewards import mathematics

        try:
            return mathematics.equal(wanted, given, self._timeout_s, tolerance)
        except TimeoutException as error:
            raise TimeoutError(f"math-verify took longer than {self._timeout_s} s") from error


@lru_cache(maxsize=8192)
def read_value(text: str) -> WrittenNumber | None:
    """A number in figures or in words."""
    return read_number(text) or read_words(text)


def _within(wanted: WrittenNumber, given: WrittenNumber, tolerance: float | None) -> bool:
    return tolerance is not None and abs(wanted.value - given.value) <= tolerance


def _same_name(wanted: str, given: str) -> bool:
    """`x = 5` is not `y = 5`; `f(x) = ..` and `f = ..` are of one function, `y = ..` and `f(x) = ..` of one graph."""
    a, b = (re.sub(r"\(.*\)$", "", name) for name in (wanted, given))
    graph = {"y", "f", "f(x)", "y(x)", "g(x)"}
    return a == b or (wanted in graph and given in graph and "y" in (a, b))


def _enclosures_agree(wanted: Answer, given: Answer) -> bool:
    r"""Which brackets may be left out: `(1, 2)` may be given as `1, 2`, `1, 2` as `(1, 2)` or `\{1, 2\}`; not `[1, 2)`.

    An interval or tuple is no set: `[1, 2)`, `(1, 2]`, `(1, 2)` and `\{1, 2\}` all differ.
    """
    a, b = (wanted.opening, wanted.closing), (given.opening, given.closing)
    if a == b:
        return True
    bare = ("", "")
    if a == bare:
        return b in (("(", ")"), ("{", "}"))
    return b == bare and a in (("(", ")"), ("{", "}"))


def _is_relation(answer: Answer) -> bool:
    return not answer.items and re.search(r"[<>]|\\(?:le|ge)(?![A-Za-z])", answer.text) is not None


_TIME = re.compile(r"(\d{1,2}:\d{2}(?::\d{2})?)\s*([ap])?\.?\s*(?:m\.?)?", re.IGNORECASE)
_RATIO = re.compile(r"\s*([^:]+?)\s*:\s*([^:]+?)(?:\s*:\s*([^:]+?))?\s*")
_BASE = re.compile(r"\s*\(?([0-9A-Za-z]+)\)?\s*_\s*\{?\s*(?:\(?(\d+)\)?|(two|eight|sixteen))\s*\}?\s*")
_LETTERS = re.compile(r"\(?[A-J]\)?[.:]?(?:[\s,;]*(?:and)?\s*\(?[A-J]\)?[.:]?)*")
_CHOICE = re.compile(r"\s*(?:\(([A-J])\)|([A-J])[.):](?=\s|$))\s*(.*)", re.DOTALL)


def _by_rule(wanted: str, given: str) -> bool | None:
    """What is decided without mathematics; None where no rule applies."""
    for rule in (_by_letters, _by_time, _by_ratio, _by_base, _by_truth):
        decided = rule(wanted, given)
        if decided is not None:
            return decided
    return None


def _by_letters(wanted: str, given: str) -> bool | None:
    r"""Choices: `D`, `(D)`, `D.`, `(D) 5` are one; `ABD` and `A, B, D` are one; `B` is another; `5` is `(D) 5`."""
    chosen = choice(given)
    if re.fullmatch(r"\(?[A-J]\)?[.:]?", wanted):
        letter = wanted.strip("().: ")
        if chosen is not None:
            return chosen[0] == letter
        return given.upper() == letter if len(given) == 1 else False
    if re.fullmatch(r"[A-J]{2,}", wanted) and _LETTERS.fullmatch(given):
        return sorted(set(re.findall("[A-J]", given))) == sorted(set(wanted))
    labelled = choice(wanted)
    if labelled is not None and labelled[1]:  # the reference has letter and text: either of them will do
        if chosen is not None:
            return chosen[0] == labelled[0]
        return labelled[1].casefold() == given.casefold() or given.strip("(). ") == labelled[0]
    if chosen is not None and chosen[1]:
        return text_key(chosen[1]) == text_key(wanted) or _equal_numbers_as_text(wanted, chosen[1])
    return None


def _equal_numbers_as_text(wanted: str, given: str) -> bool:
    one, other = read_value(wanted), read_value(given)
    return one is not None and other is not None and equal_numbers(one, other)


def choice(text: str) -> tuple[str, str] | None:
    """The letter of a choice, and what follows it: `(D)`, `D.`, `D) 5`, `(D) 5`; `D` alone is its letter too."""
    if re.fullmatch(r"\s*[A-J]\s*", text):
        return text.strip(), ""
    found = _CHOICE.fullmatch(text)
    return (found.group(1) or found.group(2), found.group(3).strip()) if found else None


def _by_time(wanted: str, given: str) -> bool | None:
    """Times of day are text: `12:00` is not 0, nor infinite; `5:00 p.m.` and `5:00 PM` are one, `5:00` will do."""
    a, b = _TIME.fullmatch(wanted.strip()), _TIME.fullmatch(given.strip())
    if not a or not b:
        return None
    halves = {half.casefold() for half in (a.group(2), b.group(2)) if half}
    return a.group(1).lstrip("0") == b.group(1).lstrip("0") and len(halves) < 2


def _by_ratio(wanted: str, given: str) -> bool | None:
    """A ratio's terms are equal one by one; a fraction will do for two terms: `3:4`, `3 : 4`, 3/4."""
    a, b = _RATIO.fullmatch(wanted), _RATIO.fullmatch(given)
    if not a and not b:
        return None
    ratio, other, text = (a, b, given) if a else (b, a, wanted)
    terms = [read_number(term) for term in ratio.groups() if term]  # type: ignore[union-attr]
    if other:
        others = [read_number(term) for term in other.groups() if term]
        if len(terms) != len(others) or None in terms or None in others:
            return None if None in terms and None in others else False
        return all(x.value == y.value for x, y in zip(terms, others, strict=True))  # type: ignore[union-attr]
    value = read_number(text)
    if value is None or len(terms) != 2 or None in terms or not terms[1].value:  # type: ignore[union-attr]
        return False
    return terms[0].value / terms[1].value == value.value  # type: ignore[union-attr]


_BASE_NAMES = {"two": "2", "eight": "8", "sixteen": "16"}


def _by_base(wanted: str, given: str) -> bool | None:
    """Digits of a base: `2516_8` may be given without its base, never in another one."""
    a, b = _BASE.fullmatch(wanted), _BASE.fullmatch(given)
    if not (a and a.group(1)[:1].isdigit()) and not (b and b.group(1)[:1].isdigit()):
        return None
    digits = [(found.group(1) if found else text).strip("() ").lstrip("0") for found, text in ((a, wanted), (b, given))]
    bases = {found.group(2) or _BASE_NAMES[found.group(3)] for found in (a, b) if found}
    return digits[0].casefold() == digits[1].casefold() and len(bases) == 1 and a is not None


_TRUTH = {"true": True, "yes": True, "false": False, "no": False}
_FAMILIES = ({"true", "false"}, {"yes", "no"})


def _by_truth(wanted: str, given: str) -> bool | None:
    """`true` and `True` are one; yes may stand for true, and no for false."""
    a, b = _TRUTH.get(wanted.casefold()), _TRUTH.get(given.casefold())
    return None if a is None and b is None else a == b


_NAMES_OF_MATHEMATICS = re.compile(
    r"\\(?:begin|end)\{[a-z]+\*?\}|\\[A-Za-z]+|\b(?:sin|cos|tan|log|ln|exp|max|min|gcd|lcm|mod|sqrt|arcsin|arccos|arctan)\b"
)


def _is_no_mathematics(text: str) -> bool:
    r"""Words, times and what is too large to be evaluated are compared as text: `east`, `12:00`, `June 20`, `\frac{1`.

    math-verify reads words as products of letters: `no` would equal `on`, `abc` would equal `cab`.
    """
    bare = _NAMES_OF_MATHEMATICS.sub(" ", text)
    if re.search(r"[A-Za-z]{5,}|[\u3000-\u9fff]|\d:\d|\?|\"", bare):
        return True
    if re.fullmatch(r"\s*[A-Za-z]{2,4}(?:\s+[A-Za-z]{2,})*\s*", bare) and "\\" not in text:
        return True
    return bool(re.search(rf"\d{{{MOST_DIGITS},}}", text)) or not _braces_close(text)


def _braces_close(text: str) -> bool:
    plain = re.sub(r"\\.", "", text)
    return plain.count("{") == plain.count("}")


_SYMBOL = re.compile(r"\\[A-Za-z]+|[A-Za-z]")


_INDEXED = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]_\{[^{}]*\}"
    r"|\\(?!(?:log|lg|ln|sum|prod|int|lim|max|min|sup|inf|binom|bigcup|bigcap)_)[A-Za-z]+_\{[^{}]*\}"
)


def _differ_in_indices(wanted: str, given: str) -> bool:
    """`I_{0}` and `I_{1}` are two symbols; latex2sympy drops some indices, as that of the unit `I`."""
    a, b = ({re.sub(r"\s", "", symbol) for symbol in _INDEXED.findall(text)} for text in (wanted, given))
    return a != b


def _differ_in_case(wanted: str, given: str) -> bool:
    """`m` and `M` are two symbols; latex2sympy reads both as `m`."""
    a, b = ({s for s in _SYMBOL.findall(text) if len(s) == 1} for text in (wanted, given))
    only_a, only_b = a - b, b - a
    return bool({s.swapcase() for s in only_a} & only_b)
