"""The `math` verifier: the response's answer equals the reference answer in value."""

import re

from v05ray.rewards.equality import Equality
from v05ray.rewards.extract import Extracted, extract
from v05ray.rewards.judged import Judged
from v05ray.rewards.normalise import normalise
from v05ray.rewards.parts import Answer, take_apart
from v05ray.rewards.references import read_reference
from v05ray.rewards.rules import choice
from v05ray.rewards.units import split_unit
from v05ray.types import Prompt

_SEVERAL_LETTERS = re.compile(
    r"(?<![A-Za-z])[A-J]\)?\s*(?:[,;/&|]|,?\s*(?:and|or)\s)\s*(?:and\s|or\s)?\s*\(?[A-J](?![A-Za-z])"
)
_LETTER = re.compile(r"\(?[A-J]\)?")


class MathVerifier:
    """Reads the reference and the response, and compares them; raises `UnreadableReference` and `TimeoutError`."""

    def __init__(self, timeout_s: int) -> None:
        self._equality = Equality(timeout_s)

    def __call__(self, prompt: Prompt, response: str) -> Judged:
        """Right or wrong, with the answer that was read."""
        alternatives = read_reference(prompt.answer)
        found = extract(response)
        if found is None:
            return Judged(False)
        tolerance = _tolerance(prompt)
        right = any(self._agrees(wanted, found, tolerance) for wanted in alternatives)
        return Judged(right, found.value if found.place == "last" and found.value else found.text)

    def _agrees(self, wanted: str, found: Extracted, tolerance: float | None) -> bool:
        if self._equality.equal(wanted, found.text, tolerance):
            return True
        if found.sentence is not None and self._equality.equal(wanted, found.sentence, tolerance):
            return True
        is_exclaimed = found.place in ("stated", "last") and found.text.endswith("!")  # where it is no factorial
        if is_exclaimed and self._equality.equal(wanted, found.text.rstrip("! "), tolerance):
            return True
        if _LETTER.fullmatch(normalise(wanted)) and (letter := _chosen(found.text)) is not None:
            return letter == normalise(wanted).strip("()")
        if found.value is None or found.value == found.text or _is_list(found.text):
            return False
        return self._equality.equal(wanted, found.value, tolerance)


def _chosen(text: str) -> str | None:
    """The letter of a choice named in words: `option D`, `(D) because ..`; None where there is not just one."""
    text = normalise(text)
    named = choice(text)
    if named is not None:
        return named[0]
    if _SEVERAL_LETTERS.search(text):
        return None
    found = re.findall(r"(?:\b(?:option|choice)\s+\(?|^\(?|\()([A-J])(?:\)|\b(?=\s*(?:$|[.,:;])))", text)
    return found[0] if len(set(found)) == 1 else None


def _is_list(text: str) -> bool:
    """Whether several values are given, of which none is the answer alone: `5 apples and 6 pears`; no sentence."""
    items = take_apart(normalise(text)).items
    return len(items) > 1 and all(_is_value(item) for item in items)


def _is_value(item: Answer) -> bool:
    if not re.search(r"\d", item.text) or re.search(r"[a-z]{2,}", item.name):
        return False
    return split_unit(item.text) is not None or not re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", item.text)


def _tolerance(prompt: Prompt) -> float | None:
    """The absolute error that the task allows, as `tolerance` of its metadata."""
    value = prompt.metadata.get("tolerance")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
