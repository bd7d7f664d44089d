r"""What makes answers equal that no mathematics can compare: choices, ratios, bases, truth, set phrases.

Each rule says True, False, or None where it does not apply. Times and dates have a file of their own, `dates.py`.
Standard library only.
"""

import re

from v05ray.rewards.dates import dates, times
from v05ray.rewards.normalise import text_key
from v05ray.rewards.numbers import equal_numbers, read_number, read_value

_RATIO = re.compile(r"\s*([^:]+?)\s*:\s*([^:]+?)(?:\s*:\s*([^:]+?))?(?:\s*:\s*([^:]+?))?\s*")
_RATIO_IN_WORDS = re.compile(r"\s*(\S+)\s+to\s+(\S+)(?:\s+to\s+(\S+))?\s*")
_BASE = re.compile(r"\s*\(?([0-9A-Za-z]+)\)?\s*_\s*\{?\s*(?:\(?(\d+)\)?|(two|eight|sixteen))\s*\}?\s*")
_LETTERS = re.compile(r"\(?[A-J]\)?[.:]?(?:[\s,;]*(?:and)?\s*\(?[A-J]\)?[.:]?)*")
_CHOICE = re.compile(
    r"\s*(?:(?:option|choice|answer)\s+)?(?:\(([A-J])\)|\[([A-J])\]|([A-J])[.):](?=\s|$)|(?<=\w\s)([A-J])(?=\s|$))\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)


def decide(wanted: str, given: str) -> bool | None:
    """What is decided without mathematics, of two normalised values; None where no rule applies."""
    for rule in (by_letters, dates, times, _by_ratio, _by_base, by_truth, by_phrase, by_marks):
        decided = rule(wanted, given)
        if decided is not None:
            return decided
    return None


def by_letters(wanted: str, given: str) -> bool | None:
    r"""Choices: `D`, `(D)`, `D.`, `(D) 5` are one; `ABD` and `A, B, D` are one; `B` is another; `5` is `(D) 5`."""
    chosen = choice(given)
    if re.fullmatch(r"\(?[A-J]\)?[.:]?", wanted):
        letter = wanted.strip("().: ")
        if chosen is not None:
            return chosen[0] == letter
        return given.upper() == letter if len(given) == 1 else False
    if _is_letters(wanted) and _LETTERS.fullmatch(given):
        return sorted(set(re.findall("[A-J]", given))) == sorted(set(re.findall("[A-J]", wanted)))
    labelled = choice(wanted)
    if labelled is not None and labelled[1]:  # the reference has letter and text: either of them will do
        if chosen is not None:
            return chosen[0] == labelled[0]
        return labelled[1].casefold() == given.casefold() or given.strip("(). ") == labelled[0]
    if chosen is not None and chosen[1]:
        return text_key(chosen[1]) == text_key(wanted) or _equal_numbers_as_text(wanted, chosen[1])
    return None


def _is_letters(text: str) -> bool:
    """Several choices: `ABD`, `A, B, D`."""
    return re.fullmatch(r"[A-J]{2,}|[A-J](?:\s*[,;]\s*[A-J])+", text) is not None


def _equal_numbers_as_text(wanted: str, given: str) -> bool:
    one, other = read_value(wanted), read_value(given)
    return one is not None and other is not None and equal_numbers(one, other)


_ANOTHER_LETTER = re.compile(r"(?:[,;/&|]|(?:or|and)\b)\s*\(?[A-J](?![A-Za-z])")


def choice(text: str) -> tuple[str, str] | None:
    """The letter of a choice, and what follows it: `(D)`, `D.`, `D) 5`, `option D`; `D` alone is its letter too."""
    if re.fullmatch(r"\s*[A-J]\s*", text):
        return text.strip(), ""
    found = _CHOICE.fullmatch(text)
    if not found:
        return None
    letter = next(group for group in found.groups()[:4] if group)
    if _ANOTHER_LETTER.match(found.group(5)):
        return None  # `(A) or (B)`
    return (letter, found.group(5).strip()) if letter.isupper() else None


def _terms(text: str) -> list[str] | None:
    found = _RATIO.fullmatch(text)
    return [term for term in found.groups() if term] if found else None


def _by_ratio(wanted: str, given: str) -> bool | None:
    """Ratios are equal where their terms are in proportion: `3:4`, `3 : 4`, `6:8`, `3 to 4`; see `as_fraction`."""
    terms = _terms(wanted)
    if terms is None:
        return False if _terms(given) and not as_fraction(given) else None
    found = _RATIO_IN_WORDS.fullmatch(given)
    others = _terms(given) or ([term for term in found.groups() if term] if found else None)
    if others is None:
        return None if as_fraction(wanted) else False
    numbers, other_numbers = [read_number(term) for term in terms], [read_number(term) for term in others]
    if None in numbers or None in other_numbers:
        return None if len(terms) == len(others) == 2 else False
    values, other_values = ([n.value for n in both] for both in (numbers, other_numbers))  # type: ignore[union-attr]
    if len(values) != len(other_values) or not any(values) or not any(other_values):
        return False
    return all(
        a * d == b * c for a, b, c, d in zip(values, values[1:], other_values, other_values[1:], strict=False)
    ) and [bool(value) for value in values] == [bool(value) for value in other_values]


def as_fraction(text: str) -> str | None:
    r"""A ratio of two terms as a fraction may be given for it: `3:4` \frac{3}{4}; None for all else, as `12:00`."""
    terms = _terms(text)
    if terms is None or len(terms) != 2 or re.fullmatch(r"0\d*", terms[1]):
        return None
    return rf"\frac{{{terms[0]}}}{{{terms[1]}}}"


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
_TRUTH_LETTERS = {"t": True, "f": False}
_TRUTH_FIRST = re.compile(r"(yes|no|true|false)\s*[,.:;!]\s", re.IGNORECASE)


def by_truth(wanted: str, given: str) -> bool | None:
    """`true`, `True` and `T` are one; yes may mean true, and no false; `No, because ..` says no."""
    a, b = _TRUTH.get(wanted.casefold()), _TRUTH.get(given.casefold())
    if a is None and b is None:
        return None
    if a is None:
        return _TRUTH_LETTERS.get(wanted.casefold()) == b
    if b is None:
        b = _TRUTH_LETTERS.get(given.casefold())
    if b is None and (first := _TRUTH_FIRST.match(given)):
        b = _TRUTH[first.group(1).casefold()]
        if re.search(r"\b(?:no|not|false)\b" if b else r"\b(?:yes|true)\b", given[first.end() :], re.IGNORECASE):
            b = None
    return a == b


_PHRASES = (
    ("nosolution", "nosolutions", "norealsolution", "norealsolutions", "thereisnosolution", "therearenosolutions"),
    ("doesnotexist", "dne", "doesn'texist", "thelimitdoesnotexist", "undefined", "isundefined"),
    ("diverges", "divergent", "theseriesdiverges"),
    ("converges", "convergent", "theseriesconverges"),
    (r"\mathbb{r}", r"(-\infty,\infty)", "allrealnumbers", "allreals", r"x\in\mathbb{r}", "realnumbers"),
    ("infinitelymany", "infinite", "infinitelymanysolutions", r"\infty"),
)
_NO_SOLUTION = _PHRASES[0]


def by_phrase(wanted: str, given: str) -> bool | None:
    r"""Set phrases: `no solution` and `No real solutions`, and \emptyset for it; `does not exist` and `DNE`."""
    a, b = (re.sub(r"\s", "", text.casefold()) for text in (wanted, given))
    if wanted == "R":  # as files in print have the real numbers
        a = r"\mathbb{r}"
    for phrases in _PHRASES:
        if a in phrases and a != r"\infty":
            return b in phrases or (phrases is _NO_SOLUTION and b == r"\emptyset")
    return True if a == r"\emptyset" and b in _NO_SOLUTION else None


_MARKS = re.compile(r"[①-⑳](?:[\s,;]*(?:和|与)?\s*[①-⑳])*")


def by_marks(wanted: str, given: str) -> bool | None:
    """Numbered statements: `①③` and `①、③` are one, in any order."""
    if not _MARKS.fullmatch(wanted) and not _MARKS.fullmatch(given):
        return None
    a, b = (sorted(set(re.findall("[①-⑳]", text))) for text in (wanted, given))
    return a == b and bool(_MARKS.fullmatch(wanted) and _MARKS.fullmatch(given))
