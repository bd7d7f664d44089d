"""Reads the final answer out of a response, without judging it. Standard library only."""

import re

from v05ray.rewards.normalise import join_thin_groups, signs_in_words

_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BRACE = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
# A sign counts only where no number or word is before it: `10-5` ends in 5, `x = -5` in -5. A number of several
# groups (1,234) is one number; `3, 4` is two.
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
# From the last digit backwards, all that a number could be made of: the last number is in there, whole.
_LAST_RUN = re.compile(r"\d[-+.,\d]*")
# Minus signs as people and models write them, and the digits of East Asian fonts.
_ASCII = str.maketrans(
    dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d", "-")
    | {chr(0xFF10 + digit): str(digit) for digit in range(10)}
)


# A space parts a sign from its number only behind an equals sign; at the start of a line it is a list's dash.
_FAR_SIGN = re.compile(r"(?<=[=(\u2248])\s*-\s+(?=\d)")


# One pass each: responses are long, come from a policy under training, and are read in the training loop's process.


def last_tagged(text: str) -> str | None:
    """The content of the last `<answer>...</answer>`, stripped; None where there is none."""
    found, start = None, None
    for tag in _TAG.finditer(text):
        if not tag.group(1):
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()].strip(), None
    return found


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with balanced braces, stripped; None where there is none."""
    last = (-1, -1)
    opened: list[int | None] = []  # where the content of each open brace starts, None for those of no box
    for brace in _BRACE.finditer(text):
        if brace.group() == "{" or brace.group().startswith("\\boxed"):
            opened.append(brace.end() if brace.group() != "{" else None)
        elif brace.group() == "}" and opened:
            start = opened.pop()
            if start is not None:
                last = max(last, (start, brace.start()))
    return text[slice(*last)].strip() if last[0] >= 0 else None


def last_number(text: str) -> str | None:
    """The last decimal number in its shortest form (`+1,020.50` is `1020.5`, `-0` is `0`); None where there is none.

    Compared as text, so that no length of digits is too long.
    """
    if text.isascii() and text.isdigit():
        return text.lstrip("0") or "0"  # most references
    text = signs_in_words(join_thin_groups(text))
    if not text.isascii():
        text = text.translate(_ASCII)
    if "-" in text:
        text = _FAR_SIGN.sub("-", text)
    last = _LAST_RUN.search(text[::-1])
    if last is None:
        return None
    start, end = len(text) - last.end(), len(text) - last.start()
    return _shortest(_NUMBER.findall(text, start, end)[-1])


def last_integer(text: str) -> str | None:
    """The last number if it is whole (`7.0` is `7`); None if it has a fraction, or where there is none."""
    number = last_number(text)
    return None if number is None or "." in number else number


def _shortest(number: str) -> str:
    sign = "-" if number.startswith("-") else ""
    whole, _, fraction = number.lstrip("+-").replace(",", "").partition(".")
    digits, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    bare = f"{digits}.{fraction}" if fraction else digits
    return bare if bare == "0" else sign + bare
