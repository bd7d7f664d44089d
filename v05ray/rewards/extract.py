r"""The answer in a response: what it is, where it was found, and whether it was finished. Standard library only.

In this order: the last `<answer>` tag, the last box, the last statement (`The answer is ..`, `Answer: ..`, `#### ..`),
the last mathematics or number. Thinking is not searched, an unterminated box is no answer, and several different
answers side by side are one answer of several parts, of which none is chosen.
"""

import json
import re
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from v05ray.rewards.answers import last_tagged
from v05ray.rewards.normalise import closing_brace, join_thin_groups, normalise, signs_in_words, text_key
from v05ray.rewards.symbols import without_tags
from v05ray.rewards.thinking import without_end_of_turn, without_thinking

Place = Literal["tagged", "boxed", "stated", "last"]


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer as the response writes it."""

    text: str
    place: Place
    finished: bool
    """Whether the response goes beyond its end: a closed tag or box, a statement followed by something."""
    value: str | None = None
    """The value within `text` where that is a sentence: `34` of `there are 34 of them`."""
    sentence: str | None = None
    """All that the statement says, where `text` is less: `5 because 2 + 3 = 5`, `the limit does not exist`."""


_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BOX_WITHOUT_BACKSLASH = re.compile(r"(?<![A-Za-z\\])boxed\s*\{|\x08oxed\s*\{")
"""A backslash that was lost, or read as a backspace."""
_BRACES = re.compile(
    rf"{_BOX.pattern}|\\boxed\s*(?P<bare>-?\d[\d.,]*|(?<=\s)[A-Za-z](?![A-Za-z])|-?\\frac\{{[^{{}}]*\}}\{{[^{{}}]*\}})|\\[{{}}\\]|[{{}}]"
)
_MOST_DIFFERENT = 3
"""A response that boxes more different answers than this has sprayed them, unless they are side by side as parts."""
_BETWEEN_PARTS = 60
"""Characters between two boxes that are parts of one answer."""
_SECOND_THOUGHT = re.compile(
    r"\b(?:wait|no|not|actually|mistake|instead|wrong|incorrect|error|final|finally|therefore|thus|hence|so|check|"
    r"recheck|correction|simplif\w+|equals|which is|becomes|rather|alternatively|again|verify)\b|=|\n\s*\n",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    end: int
    text: str


_SEARCHED = 20_000
"""Characters at the end of a response in which a statement of its answer is looked for."""
_READ = 2_000
"""Characters at its end in which any mathematics is."""


def _final(found: Iterable[re.Match[str]]) -> re.Match[str] | None:
    last = deque(found, maxlen=1)
    return last[0] if last else None


def extract(response: str) -> Extracted | None:
    """The response's answer; None where it has none."""
    text = without_thinking(response)
    if text is None or not text.strip():
        return None
    text = without_end_of_turn(text)
    tagged = last_tagged(text)
    if tagged is not None:
        return _inside_tag(tagged)
    boxed = _boxed(text)
    if boxed is not None:
        return boxed if boxed.text else None
    text = signs_in_words(without_emphasis(join_thin_groups(text[-_SEARCHED:])))
    return _in_json(text) or _stated(text) or _last(text)


def has_finished_answer(response: str) -> bool:
    """Whether a response that was cut off had given its answer before: a closed tag or box, or a whole statement."""
    found = extract(response)
    return found is not None and found.finished


def _inside_tag(tagged: str) -> Extracted | None:
    if not tagged.strip():
        return None
    boxed = _boxed(tagged)
    if boxed is not None:
        return Extracted(boxed.text, "tagged", True) if boxed.text else None
    stated = _stated(without_emphasis(tagged)) or _last(without_emphasis(tagged))
    if stated is None or len(tagged) <= 80 or "\n" not in tagged.strip():
        value = stated.value or stated.text if stated else None
        return Extracted(tagged.strip(), "tagged", True, value if value != tagged.strip() else None)
    return Extracted(stated.text, "tagged", True, stated.value)


def _boxed(text: str) -> Extracted | None:
    """The last box, or the last few side by side; empty text where it is unterminated or sprayed; None: no box."""
    if "box" not in text and "\x08" not in text:
        return None
    if "\\boxed" not in text and "oxed" in text:
        text = _BOX_WITHOUT_BACKSLASH.sub(r"\\boxed{", text)
    boxes, unterminated = _boxes(text)
    if not boxes and not unterminated:
        return None
    if unterminated or not boxes:
        return Extracted("", "boxed", False)
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end + 1 : group[0].start]
        if len(between) > _BETWEEN_PARTS or _SECOND_THOUGHT.search(re.sub(r"[A-Za-z]\s*=\s*\$*\s*$", "", between)):
            break
        group.insert(0, box)
    parts = _different([box.text for box in group])
    different = _different([box.text for box in boxes])
    if len(different) > max(_MOST_DIFFERENT, len(parts)):
        return Extracted("", "boxed", True)
    if len(parts) == 1:
        return Extracted(parts[0], "boxed", True)
    return Extracted(", ".join(parts), "boxed", True)


def _boxes(text: str) -> tuple[list[_Box], bool]:
    """Outermost closed boxes in order, and whether one is left open behind them; in one pass."""
    boxes: list[_Box] = []
    opened: list[tuple[int, int] | None] = []  # where each open box and its content start; None for other braces
    for mark in _BRACES.finditer(text):
        word = mark.group()
        if word == "{":
            opened.append(None)
        elif word.endswith("{") and len(word) > 2:
            opened.append((mark.start(), mark.end()))
        elif word == "}":
            if opened and (box := opened.pop()) is not None:
                while boxes and boxes[-1].start > box[0]:
                    boxes.pop()  # within this one
                boxes.append(_Box(box[0], mark.start(), text[box[1] : mark.start()].strip()))
        elif mark.group("bare") and not any(opened):  # `\boxed 5`, as TeX allows
            boxes.append(_Box(mark.start(), mark.end() - 1, mark.group("bare").rstrip(".,")))
    last = boxes[-1].end if boxes else -1
    left_open = any(box is not None and box[0] > last for box in opened)
    return [_Box(box.start, box.end, _unboxed(box.text)) for box in boxes if box.text], left_open


def _unboxed(content: str) -> str:
    """The inner content of a box that holds nothing but a box."""
    for _ in range(_MOST_DIFFERENT):
        inner = _BOX.match(content)
        if not inner or closing_brace(content, inner.end()) != len(content) - 1:
            break
        content = content[inner.end() : -1].strip()
    return content


def _different(texts: Sequence[str]) -> list[str]:
    """Without those that say the same as an earlier one."""
    seen: dict[str, str] = {}
    for text in texts:
        seen.setdefault(text_key(normalise(text)), text)
    return list(seen.values())


_BOLD = re.compile(r"(?<![\w)*])\*\*(?=[^\s*])((?:[^*\n]|\*(?!\*)){1,400}?)(?<=\S)\*\*(?![\w(*])")
_EMPHASIS = re.compile(r"(?<![\w)*])(__|\*)(?=[^\s*_])([^*\n]{1,400}?)(?<=\S)\1(?![\w(*])")


def without_emphasis(text: str) -> str:
    """Without Markdown's marks of emphasis; `2**3` is a power."""
    if "<" in text:
        text = without_tags(text)
    return _EMPHASIS.sub(r"\2", _BOLD.sub(r"\1", text.replace("***", "**")))


_STATED = re.compile(
    r"""(?:
      \#{3,4}\s*(?![A-Za-z\s\#])
    | \#{3,4}[ \t]*(?=[^\n\#]{1,60}\s*\Z)
    | \b(?:the\s+)?(?:final\s+|correct\s+|right\s+|best\s+)?(?:answers?|options?|choices?|result|solution)\b
      (?:[^\n.:=。]{0,40}?)\s*(?:\bis\b|\bare\b|\bwould\s+be\b|[:=：])(?:\s*(?:option|choice)\b)?\s*:?
    | (?:故选|应选|(?<!不)选)[:：]?\s*(?=[A-J]{1,6}\b|[($\\（①-⑳])
    | (?:答案|选项|结果)[^\n。]{0,10}?(?:是|为|[:：])[:：]?
    | (?:Ответ|答え|解答|정답|답|Réponse|Antwort|Respuesta|Risposta|Resposta)\s*[:：]
    | ^[ \t]*ans(?:wer)?[.:=]
    )[ \t]*""",
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_DISPLAYS = re.compile(r"\$\$[^$]+?\$\$|\\\[.+?\\\]", re.DOTALL)
_DISPLAY = re.compile(r"\s*(\$\$.+?\$\$|\\\[.+?\\\])", re.DOTALL)
_SENTENCE_END = re.compile(r"(?:[.?](?=\s|$|[\"')])|!(?=\s+[A-Z]))|[。！]|\n|;\s+(?=[a-z]{3,})")
_CLAUSE = re.compile(
    r",?\s+\(?(?:because|since|as|which|where|when|for|from|by|if|and\s+(?:so|thus|not)|so|but|given|after|in\s+total|"
    r"in\s+all|altogether|not)\b.*$|\s*[—–]\s+.*$|\s+\((?=[^()]*[A-Za-z]{3})[^()]*\)\s*$",
    re.IGNORECASE | re.DOTALL,
)


_JSON_ANSWER = re.compile(
    r'"(?:final_?)?answer"\s*:\s*("(?:[^"\\\n]|\\.){0,400}"|[^",}\s]{1,100})\s*[,}]', re.IGNORECASE
)


def _in_json(text: str) -> Extracted | None:
    """Of a response that is an object of JSON: `{"answer": 34}`, `{"answer": "x^2"}`."""
    found = _final(_JSON_ANSWER.finditer(text))
    if found is None:
        return None
    written = found.group(1)
    try:
        value = json.loads(written)
    except ValueError:
        value = None
    return Extracted(value if isinstance(value, str) else written.strip('"'), "stated", True)


_NAMED_CHOICE = re.compile(
    r"(?:\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+\(?([A-J])\)?\s+is\s+(?:the\s+)?(?:correct|right|best|answer)\b"
    r"|(?<![\w\\])\(?([A-J])\)?\s+is\s+the\s+(?:(?:correct|right|best)\s+)?(?:answer|option|choice)\b)(?!.*\banswer)",
    re.DOTALL,
)
_SUPPOSED = re.compile(
    r"\b(?:might|may|could|would|can)\s+(?:\w+\s+)?(?:think|guess|believe|assume|suppose|expect|say|conclude)\b[^.\n]*$"
)
_CONTRAST = re.compile(r"^not\s+[^,.;]{1,40}?(?:,\s*(?:but|it\s+is|it's|rather)|\s+but)\s+", re.IGNORECASE)
"""`not 6, it is 5` says 5."""
_HEDGED = re.compile(
    r"\bnot\b|n't\b|\bor (?:more|less|fewer)\b|\bbetween\b|\bat (?:least|most)\b"
    r"|\b(?:more|less|fewer|greater|larger|smaller|bigger|higher|lower) than\b",
    re.IGNORECASE,
)
"""What makes a number in a statement no answer: `not 7`, `2 or more`."""
_DENIED_BEFORE = re.compile(
    r"(?:(?:\bnot|n't|\bcannot)(?:\s+be)?|\b(?:more|less|fewer|greater|larger|smaller|bigger|higher|lower) than)\s+"
    r"(?:equal\s+(?:to\s+)?)?[$\\(]*$",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"[$\\)]*\s*(?:or\s+(?:more|less|fewer)\b|(?:is|was|would\s+be)\s+(?:wrong|incorrect|not|impossible)\b)",
    re.IGNORECASE,
)
_WITHDRAWN = re.compile(
    r"\bI\s+(?:made|was\s+wrong|mis\w+)|\b(?:scratch\s+that|oops|my\s+mistake)\b"
    r"|\bthat(?:'s|\s+is|\s+was)\s+(?:wrong|incorrect|not\s+right)\b",
    re.IGNORECASE,
)
"""A statement with one of these behind it, and a number behind that, is taken back."""


def _stated(text: str) -> Extracted | None:
    """What the last statement of an answer says."""
    text = text[-_SEARCHED:]
    if named := _final(_NAMED_CHOICE.finditer(text)):
        return Extracted(named.group(1) or named.group(2), "stated", True)
    found = _final(
        one for one in _STATED.finditer(text) if not _SUPPOSED.search(text, max(0, one.start() - 80), one.start())
    )
    if found is None:
        return None
    start = found.end()
    display = _DISPLAY.match(text, start)
    if display:
        return Extracted(display.group(1), "stated", True)
    rest = text[start:]
    if not rest.strip():
        return None
    if not rest.split("\n", 1)[0].strip():  # the value is on a line of its own
        start += len(rest) - len(rest.lstrip())
        rest = text[start:]
    end = _sentence_end(rest)
    if (taken_back := _WITHDRAWN.search(rest, end)) and re.search(r"\d", rest[taken_back.end() :]):
        return None
    said = rest[:end].strip()
    if not re.search(r"\w|\\|[^\x00-\x7f]", said):
        return None
    finished = bool(rest[end:].strip(" .")) or rest[end : end + 1] == "\n" or rest[end:].startswith((". ", ".\n"))
    said = _CONTRAST.sub("", said.strip(": "))
    bare = _CLAUSE.sub("", said) or said
    value = _value_in(bare) if _is_prose(bare) and not _HEDGED.search(bare) else None
    return Extracted(bare, "stated", finished, value, said if said != bare else None)


def _sentence_end(text: str) -> int:
    """Where the first sentence ends, outside of dollars and brackets."""
    for found in _SENTENCE_END.finditer(text):
        before = text[: found.start()]
        if len(re.findall(r"(?<!\\)\$", before)) % 2 == 0 or found.group() == "\n":
            return found.start()
    return len(text)


_INLINE = re.compile(r"(?<!\\)\$\$(.+?)\$\$|(?<![\\$])\$([^$\n]+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_NUMBER = (
    r"(?<![\w.\\^{])(?:[-+\u2212\u2013\u2014](?=[\d.$€£√\\]))?[$€£¥]?(?:\d{1,3}(?:[,\u202f\u2009]\d{3})+(?!\d)|"
    r"\d{1,3}(?: \d{3})+(?![\d.,/])|\d+)?(?:\.\d+|(?<=\d))"
    r"(?:\s*(?:\\times|×|[*x])\s*10\s*\^\s*\{?[+-]?\d+\}?|\s*(?:×|x)\s*10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|[eE][+-]?\d+)?"
    r"(?:\s+\d+\s*/\s*\d+|\s*/\s*\d+)?(?:\s*√\s*\d+|[½¼¾⅓⅔]|\s?(?:π|pi\b)(?:\s*/\s*\d+)?)?"
    r"(?:\s?(?:%|percent\b|°)|\s(?:hundred|thousand|million|billion|trillion|dozen)\b)?"
)
_END = r"[-+\u2212]?(?:\d+(?:\.\d+)?(?:/\d+)?|∞|\\infty)"
_LATEX = (
    r"[-+]?(?:\d+\s*)?\\[dtc]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}(?:\s*\\(?:pi|sqrt\{[^{}]*\}))?|[-+]?(?:\d+\s*)?\\sqrt(?:\[\d\])?\{[^{}]*\}"
    r"|[-+]?(?:\d+\s*)?\\pi(?![A-Za-z])|\d+(?:\s*:\s*\d+)+|[-+]?(?:\d+\s*(?:\*\s*)?)?(?<![A-Za-z])sqrt\([^()]{1,40}\)(?:\s*/\s*\d+)?"
    r"|(?<!from\s)(?<![\w.])\d+(?:\.\d+)?(?:[–—]|\s+to\s+)\d+(?:\.\d+)?(?![\w.]\d)"
    rf"|[\[(]\s*{_END}\s*(?:,\s*{_END}\s*)+[\])]"
)
_NUMBERS = re.compile(rf"(?:{_LATEX}|√\d+|{_NUMBER})")
_LIST = re.compile(rf"{_NUMBER}(?:\s*(?:,|;|\b(?:and|or)\b|,\s*(?:and|or)\b)\s*{_NUMBER})+\s*$")
_JOIN = re.compile(r"[\s,;.]*(?:\b(?:and|or)\b)?[\s,;]*")


_LISTED = 200
"""Characters that a list of numbers may take."""


def _value_in(text: str) -> str | None:
    """The value that a sentence of words ends in: its last mathematics or number, or list of them; None for none."""
    segments = [(m.start(), m.end(), next(g for g in m.groups() if g is not None)) for m in _INLINE.finditer(text)]
    numbers = [m for m in _NUMBERS.finditer(text) if not any(s <= m.start() < e for s, e, _ in segments)]
    last_number = numbers[-1] if numbers else None
    if segments and (last_number is None or segments[-1][1] > last_number.start()):
        chosen = [segments[-1]]
        for segment in reversed(segments[:-1]):
            if not _JOIN.fullmatch(text[segment[1] : chosen[0][0]]):
                break
            chosen.insert(0, segment)
        return ", ".join(part for _, _, part in chosen) if len(chosen) > 1 else chosen[0][2]
    if last_number is None:
        return None
    listed = _LIST.search(text[max(0, last_number.end() - _LISTED) : last_number.end()])
    if listed and not re.match(r"\s*[-+*/=]", text[last_number.end() :]):
        return listed.group().strip()
    return last_number.group().strip()


_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?!(?:sin|cos|tan|log|ln|exp|max|min|gcd|lcm|mod|sqrt|pi|arcsin|arccos|arctan)\b)[A-Za-z]{2,}"
    r"|[\u0400-\u04ff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
)


def _is_prose(text: str) -> bool:
    """Whether there are words beside the mathematics; of `5x` or `x^2 + 4` no number is the answer."""
    return _PROSE.search(_INLINE.sub(" ", text)) is not None


_NAMED = re.compile(
    r".*(?:\b(?:is|are|be|was|equals?|choose|choosing|select|pick)|\b[Ii]t's)\s+(?:the\s+|option\s+|choice\s+)?([^.]{1,40})$"
)


def _named_last(line: str) -> str | None:
    """What a sentence without numbers says last: `the statement is true`, `it must be (D)`."""
    found = _NAMED.match(line)
    return found.group(1).strip() if found else None


_MOST_WHOLE = 120
"""A last line of at most this many characters may be an answer as it is."""


_CLAUSE_IN_PARENTHESES = re.compile(r"\s+\((?=[^()]*[A-Za-z]{3})[^()]*\)$")
_DOES = re.compile(r"\b(?:does not exist|diverges|converges|do not exist)$")


def _is_denied(line: str, value: str) -> bool:
    """Whether the line says that its last value is not the answer: `it is not 34`, `34 or more`, `34 is wrong`."""
    start = line.rfind(value)
    return bool(_DENIED_BEFORE.search(line[:start]) or _DENIED_BEHIND.match(line, start + len(value)))


def _last(text: str) -> Extracted | None:
    """Without any mark: the last line, if it is short, and the last mathematics or number of all."""
    text = text[-_READ:]
    display = _final(_DISPLAYS.finditer(text))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[-1] if lines else ""
    sentence = line.rstrip(".。 ")
    bare = _CLAUSE_IN_PARENTHESES.sub("", sentence)
    value = _value_in(bare) if _is_prose(line) or _INLINE.search(line) else None
    if value is not None and _is_denied(line, value):
        return None
    named = _named_last(sentence) if value is None and _is_prose(line) else None
    if value is None and display is not None:
        value = display.group()
    if value is None and (does := _DOES.search(sentence)):
        value = does.group()
    if value is None:
        value = named or (_value_in(text) if len(lines) > 1 or len(line) > _MOST_WHOLE else None)
    whole = sentence if len(sentence) <= _MOST_WHOLE and (len(lines) == 1 or len(sentence) <= 40) else None
    if whole is None and value is None:
        return None
    return Extracted(whole if whole is not None else str(value), "last", False, value if whole is not None else None)
