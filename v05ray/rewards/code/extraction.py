"""The program in a response. Standard library only."""

import re

from v05ray.rewards.extract import without_thinking

_FENCE = re.compile(r"^\s*(?P<marks>`{3,}|~{3,})\s*(?P<language>[^\s`]*)(?P<rest>[^`]*)$")
_BEHIND_WORDS = re.compile(r"^.*[^`](?P<marks>`{3,})(?P<language>(?i:python3?|py3?))(?P<rest>\s*)$")
"""Some begin the block in the line that announces it."""
_PYTHON = frozenset({"python", "python3", "py", "py3"})


def fenced_program(response: str) -> str | None:
    """The last fenced block that is marked as Python behind the thinking, or the last without a mark if none is.

    None where there is none, and where the last fence is not closed: what was cut off is no program.
    """
    text = without_thinking(response)
    if text is None:
        return None
    marked, bare = None, None
    opened: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        fence = _FENCE.match(line)
        if opened is None:
            opened, lines = fence or _BEHIND_WORDS.match(line), []
        elif fence is not None and not fence["language"] and fence["marks"].startswith(opened["marks"]):
            language = opened["language"].casefold()
            if language in _PYTHON:
                marked = "\n".join(lines)
            elif not language:
                bare = "\n".join(lines)
            opened = None
        else:
            lines.append(line)
    if opened is not None:
        return None
    return bare if marked is None else marked


def whole_program(response: str) -> str | None:
    """All that follows the thinking, for policies that answer with bare code."""
    text = without_thinking(response)
    return None if text is None or not text.strip() else text
