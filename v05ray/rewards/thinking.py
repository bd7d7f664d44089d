"""What of a response is its answer's text: thinking and the tokens that end a turn are not. Standard library only."""

import re

_THINKING = "(?:\\w{1,10}:)?think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
_OPEN = re.compile(
    rf"<\s*(?:{_THINKING})\s*>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<unused94>"
    r"|<\|channel\|>\s*(?:analysis|commentary)\b|\A\s*(?-i:analysis(?=[A-Z]))",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"<\s*/\s*(?:{_THINKING})\s*>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<unused95>"
    r"|<\|channel\|>\s*final\b[^<]{0,40}<\|message\|>|assistantfinal",
    re.IGNORECASE,
)
_SPECIAL = re.compile(
    r"(?:\s*(?:[■□∎]|\$?\\(?:blacksquare|square|qed)\b\$?|Q\.?E\.?D\.?|</s>|<eos>|<end_of_turn>|<[|｜][^|｜<>]{1,40}[|｜]>))+\s*$"
)
"""Tokens that end a turn, where the engine leaves them in the text."""


def without_thinking(response: str) -> str | None:
    """What follows the last end of thinking; None where thinking has begun and not ended.

    A template may have opened the thinking itself, so an end without a beginning counts.
    """
    if not _may_think(response):
        return response
    ends = [found.end() for found in _CLOSE.finditer(response)]
    rest = response[ends[-1] :] if ends else response
    opened = _OPEN.search(rest)
    if opened is None:
        return rest
    return None


def _may_think(text: str) -> bool:
    """False for most responses, at a small part of what a pattern would cost over all of them."""
    return (
        "<" in text
        or "\u25c1" in text
        or "hink]" in text
        or "HINK]" in text
        or "assistantfinal" in text
        or text.lstrip().startswith("analysis")
    )


_ENDING = 400
"""Characters at a response's end in which such tokens are looked for."""


def without_end_of_turn(text: str) -> str:
    """Without `</s>`, `<|im_end|>` and their like at the end."""
    return text[:-_ENDING] + _SPECIAL.sub("", text[-_ENDING:])
