r"""Whether a given answer equals the wanted one: by text, by number, by structure, and only then by mathematics.

The order is that of cost and of certainty. math-verify and sympy come last, for one value against one value, and what
they are known to get wrong is kept from them or checked after them; each rule is a function with its cases.
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from v05ray.rewards.dates import dates
from v05ray.rewards.intervals import as_union
from v05ray.rewards.normalise import MOST_CHARS, normalise, text_key
from v05ray.rewards.numbers import MOST_DIGITS, WrittenNumber, equal_numbers, read_value
from v05ray.rewards.parts import Answer, take_apart
from v05ray.rewards.rules import as_fraction, by_letters, by_marks, by_phrase, by_truth, decide
from v05ray.rewards.units import equal_compounds, equal_quantities, split_unit, units_agree

_MOST_ITEMS = 64
_WHOLE_RULES = (by_letters, by_truth, by_phrase, by_marks, dates, equal_compounds)
"""Of answers that would come apart at their commas and spaces."""


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
        if (money := _in_cents(wanted, a)) and (other_money := _in_cents(given, b)) and money[0] != other_money[0]:
            return money[1] == other_money[1]
        if text_key(a) == text_key(b):
            return True
        if (one := read_value(a)) and (other := read_value(b)):
            return equal_numbers(one, other) or _within(one, other, tolerance)
        a, b = _without_one_domain(a, b)
        for rule in _WHOLE_RULES:
            decided = rule(a, b)
            if decided is not None:
                return decided
        a, b = as_union(a), as_union(b)
        if text_key(a) == text_key(b):
            return True
        return self._answers(take_apart(a), take_apart(b), tolerance)

    def _answers(self, wanted: Answer, given: Answer, tolerance: float | None) -> bool:
        if (equations := _as_equations(wanted, given)) is not None:
            return self._by_mathematics(*equations, tolerance)
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
        if (one := _only_item(wanted)) and not _only_item(given):
            return self._answers(one, given, tolerance)
        if (other := _only_item(given)) and not _only_item(wanted):
            return self._answers(wanted, other, tolerance)
        if not _enclosures_agree(wanted, given):
            return False
        if "\\pm" in wanted.text + given.text and not (wanted.items and given.items):
            return self._values(wanted.text, given.text, tolerance)
        a, b = wanted.items or (wanted,), given.items or (given,)
        if len(a) != len(b) or len(a) > _MOST_ITEMS:
            return False
        if all(self._answers(x, y, tolerance) for x, y in zip(a, b, strict=True)):
            return True
        if wanted.order == "given" or given.opening in ("(", "[") or _names_differ(a) != _names_differ(b):
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
        by_rule = decide(wanted, given)
        if by_rule is not None:
            return by_rule
        measured, other_measured = split_unit(wanted), split_unit(given)
        if measured or other_measured:
            if measured and other_measured and not units_agree(measured.unit, other_measured.unit):
                return equal_quantities(measured, other_measured)
            return self._values(
                measured.value if measured else wanted, other_measured.value if other_measured else given, tolerance
            )
        return self._by_mathematics(as_fraction(wanted) or wanted, as_fraction(given) or given, tolerance)

    def _by_mathematics(self, wanted: str, given: str, tolerance: float | None) -> bool:
        if _is_no_mathematics(wanted) or _is_no_mathematics(given):
            return False
        if _differ_in_case(wanted, given) or _differ_in_indices(wanted, given) or _primes(wanted) != _primes(given):
            return False
        from math_verify.errors import TimeoutException

        from v05ray.rewards import mathematics

        try:
            return mathematics.equal(wanted, given, self._timeout_s, tolerance)
        except TimeoutException as error:
            raise TimeoutError(f"math-verify took longer than {self._timeout_s} s") from error


def _within(wanted: WrittenNumber, given: WrittenNumber, tolerance: float | None) -> bool:
    return tolerance is not None and abs(wanted.value - given.value) <= tolerance


def _as_equations(wanted: Answer, given: Answer) -> tuple[str, str] | None:
    """Two equations of the same curve may be solved for different names, or for none: `y = 2x+1`, `2x - y + 1 = 0`."""
    if wanted.items or given.items or len(wanted.name) > 1 or len(given.name) > 1:
        return None
    if wanted.name and given.name:
        if wanted.name == given.name or wanted.name not in given.text or given.name not in wanted.text:
            return None
    elif not (wanted.name and "=" in given.text) and not (given.name and "=" in wanted.text):
        return None
    texts = [f"{answer.name}={answer.text}" if answer.name else answer.text for answer in (wanted, given)]
    return texts[0], texts[1]


def _same_name(wanted: str, given: str) -> bool:
    """`x = 5` is not `y = 5`; `f(x) = ..` and `f = ..` are of one function, `y = ..` and `f(x) = ..` of one graph."""
    a, b = wanted, given
    if ("(" in a) != ("(" in b):  # `f(2)` and `f(3)` are two values
        a, b = (re.sub(r"\([A-Za-z,]*\)$", "", name) for name in (wanted, given))
    graph = {"y", "f", "f(x)", "y(x)", "g(x)"}
    return a == b or (wanted in graph and given in graph and "y" in (a, b))


def _only_item(answer: Answer) -> Answer | None:
    r"""Of a set of one: `\{5\}` may be given as 5."""
    return answer.items[0] if answer.opening == "{" and len(answer.items) == 1 else None


def _enclosures_agree(wanted: Answer, given: Answer) -> bool:
    r"""Which brackets may be left out: `(1, 2)` may be given as `1, 2`, `1, 2` as `(1, 2)` or `\{1, 2\}`; not `[1, 2)`.

    An interval or tuple is no set: `[1, 2)`, `(1, 2]`, `(1, 2)` and `\{1, 2\}` all differ.
    """
    a, b = (wanted.opening, wanted.closing), (given.opening, given.closing)
    if a == b:
        return True
    if len(wanted.items) > 2 and {a, b} == {("(", ")"), ("[", "]")}:  # of three or more values it is no interval
        return True
    bare = ("", "")
    if a == bare:
        return b in (("(", ")"), ("{", "}"))
    return b == bare and a in (("(", ")"), ("{", "}"))


_DOLLARS = re.compile(r"\\?\$|\bdollars?\b")
_CENTS = re.compile(r"(?<![a-z])cents?\b|¢")


def _in_cents(text: str, normalised: str) -> tuple[bool, Fraction] | None:
    r"""Whether money is in cents as written, and its amount in cents: `\$0.05` and `5 cents` are one."""
    in_cents = _CENTS.search(text) is not None
    if not in_cents and not _DOLLARS.search(text):
        return None
    measured = split_unit(normalised.replace("¢", " cents"))
    number = read_value(measured.value if measured else normalised)
    return None if number is None else (in_cents, number.value * (1 if in_cents else 100))


_DOMAIN = re.compile(r"(?<=\S)\s*,?\s*\(?\s*[a-z]\s*\\in\s*(?:\\mathbb\{)?[NZ]\}?(?:[_^]\{?[*+]\}?)?\s*\)?$")


def _without_one_domain(wanted: str, given: str) -> tuple[str, str]:
    r"""`2k\pi, k \in Z` may be given as 2k\pi, and the other way round; two domains are compared."""
    short, other_short = _DOMAIN.sub("", wanted), _DOMAIN.sub("", given)
    return (short, other_short) if (short == wanted) != (other_short == given) else (wanted, given)


def _names_differ(items: Sequence[Answer]) -> bool:
    """Of `a=1, b=2`, whose values alone are in the order of the names; `x=1, x=2` are two values of one."""
    return len({item.name for item in items}) > 1 and all(item.name for item in items)


def _is_relation(answer: Answer) -> bool:
    return not answer.items and re.search(r"[<>]|\\(?:le|ge)(?![A-Za-z])", answer.text) is not None


_NAMES_OF_MATHEMATICS = re.compile(
    r"\\(?:begin|end)\{[a-z]+\*?\}|\\[A-Za-z]+|\b(?:sin|cos|tan|log|ln|exp|max|min|gcd|lcm|mod|sqrt|arcsin|arccos|arctan)\b"
)


def _is_no_mathematics(text: str) -> bool:
    r"""Words, times and what is too large to be evaluated are compared as text: `east`, `12:00`, `June 20`, `\frac{1`.

    math-verify reads words as products of letters: `no` would equal `on`, `abc` would equal `cab`.
    """
    bare = _NAMES_OF_MATHEMATICS.sub(" ", text)
    if re.search(r"[A-Za-z]{5,}|[\u3000-\u9fff]|:|\?|\"|(?<![A-Za-z])[A-Za-z]{2,}\s+[A-Za-z]{2,}", bare):
        return True
    if re.fullmatch(r"\s*[A-Za-z]{2,4}(?:\s+[A-Za-z]{2,})*\s*", bare) and "\\" not in text:
        return re.fullmatch(r"[b-df-hj-np-tv-z]{2,3}", text) is None  # without a vowel it is a product: `xy`
    if len(text) > _MOST_EVALUATED or "\\ldots" in text or _TANGLED.search(text) or _is_too_large(text):
        return True
    return bool(re.search(rf"\d{{{MOST_DIGITS},}}", text)) or not _braces_close(text)


_POWER_OF_NUMBERS = re.compile(r"(\d+|\))\^\{-?(\d+)(?:\^\{(\d+)\}|!)?\}")
_FACTORIAL = re.compile(r"(\d+)(!+)")
_MOST_EVALUATED = 600
_TANGLED = re.compile(r"[-+|(\[{]{12}|[-+|]{6}|(?:\\frac\{1\}\{|\\sqrt\{){9}")
"""What no answer has, and math-verify's grammar reads in exponential time."""
_MOST_DIGITS_EVALUATED = 10**5
_LARGEST_EXPANSION = 2000
"""Of a power of something in parentheses, which mathematics may multiply out."""


def _is_too_large(text: str) -> bool:
    """Whether a power or factorial has so many digits that evaluating it takes longer than any verdict may."""
    for base, exponent, second in _POWER_OF_NUMBERS.findall(text):
        if min(len(exponent), len(second or "0")) > 7 or len(exponent) > 7:
            return True
        if second and int(exponent) > 1 and int(second) * math.log10(int(exponent)) > 7:
            return True
        power = int(exponent) ** int(second) if second else int(exponent)
        if power * len(base) > (_MOST_DIGITS_EVALUATED if base != ")" else _LARGEST_EXPANSION):
            return True
    return any(len(n) > 5 or int(n) > 20_000 or len(marks) > 1 for n, marks in _FACTORIAL.findall(text))


def _braces_close(text: str) -> bool:
    plain = re.sub(r"\\.", "", text)
    brackets = [sum(map(plain.count, marks)) for marks in ("([", ")]")]
    return plain.count("{") == plain.count("}") and brackets[0] == brackets[1]


_SYMBOL = re.compile(r"\\[A-Za-z]+|[A-Za-z]")


_INDEXED = re.compile(
    r"(?<![\\A-Za-z])[A-Za-z]_\{[^{}]*\}"
    r"|\\(?!(?:log|lg|ln|sum|prod|int|lim|max|min|sup|inf|binom|bigcup|bigcap)_)[A-Za-z]+_\{[^{}]*\}"
)


def _primes(text: str) -> int:
    """`x'` and `x` are two functions; latex2sympy drops the prime."""
    return text.count("'") + text.count("\\prime")


def _differ_in_indices(wanted: str, given: str) -> bool:
    """`I_{0}` and `I_{1}` are two symbols; latex2sympy drops some indices, as that of the unit `I`."""
    a, b = ({re.sub(r"\s", "", symbol) for symbol in _INDEXED.findall(text)} for text in (wanted, given))
    return a != b


def _differ_in_case(wanted: str, given: str) -> bool:
    """`m` and `M` are two symbols; latex2sympy reads both as `m`."""
    a, b = ({s for s in _SYMBOL.findall(text) if len(s) == 1} for text in (wanted, given))
    only_a, only_b = a - b, b - a
    return bool({s.swapcase() for s in only_a} & only_b)
