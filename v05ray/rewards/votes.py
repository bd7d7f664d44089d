"""Which answers vote together in a majority: those that are equal, however they are written. Standard library only."""

from v05ray.rewards.extract import extract
from v05ray.rewards.normalise import normalise, text_key
from v05ray.rewards.numbers import read_value
from v05ray.rewards.parts import Answer, take_apart
from v05ray.rewards.rules import choice
from v05ray.rewards.units import split_unit

_MOST_CHARS = 500


def answer_key(response: str) -> str:
    """What two responses of the same answer share; the whole text where a response has no answer."""
    found = extract(response)
    if found is None:
        return text_key(response.strip())[:_MOST_CHARS]
    return canonical(found.value or found.text)


def canonical(answer: str) -> str:
    r"""An answer in the one way of writing that all equal ones share; again applied, it stays as it is.

    `.5`, `\frac{1}{2}` and 1/2; `x=5` and 5; `\text{A}` and `(A)`; `1{,}234` and 1234; `10\%` and 10%; `\left(` and
    `(`; `2, 3` and `3, 2`. Expressions that need algebra to be equal (`x(x+1)` and `x^2+x`) vote apart.
    """
    normalised = normalise(answer)
    if len(normalised) > _MOST_CHARS:
        return normalised[:_MOST_CHARS]
    return _of(take_apart(normalised))


def _of(answer: Answer) -> str:
    if not answer.items:
        return _of_value(answer.text)
    if "\\pm" in answer.text and not answer.opening and "," not in answer.text and ";" not in answer.text:
        return text_key(answer.text)
    parts = [f"{item.name}={_of(item)}" if item.name else _of(item) for item in answer.items]
    if answer.order == "any":
        parts.sort()
    opening, closing = (f"\\{mark}" if mark in "{}" and mark else mark for mark in (answer.opening, answer.closing))
    separator = "; " if answer.order == "given" and not opening else ", "
    return f"{opening}{separator.join(parts)}{closing}"


def _of_value(text: str) -> str:
    number = read_value(text)
    if number is not None:
        return f"{number.value}{'%' if number.percent else ''}"
    measured = split_unit(text)
    if measured is not None:
        return _of_value(measured.value)
    chosen = choice(text)
    if chosen is not None:
        return chosen[0]
    return text_key(text)
