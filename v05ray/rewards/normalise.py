r"""One way of writing for each answer: rules on text, applied alike to references and to responses.

Each rule is one function with its cases; `normalise` applies them in order. What comes out is LaTeX of a small set of
commands, without dollars, fonts, spacing commands and final punctuation. No rule evaluates anything. Standard library
only.
"""

import re
from functools import lru_cache

from v05ray.rewards.symbols import html_to_characters, unicode_to_latex

_THIN_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?:(?:\\[,!:; ]|\{,\}|,\\!|[\u2009\u202f\u00a0])+\d{3})+(?!\d)")
_GROUP_MARK = re.compile(r"\\[,!:; ]|\{,\}|,\\!|[\u2009\u202f\u00a0]")


def join_thin_groups(text: str) -> str:
    r"""Thousands set in LaTeX are one number: `10\,080`, `1{,}234`, `32,\!348`, `1\ 234`; `1,\,234` are two."""
    if "\\" not in text and "{,}" not in text and text.isascii():
        return text  # most responses: looking for a character is many times faster than for a number
    return _THIN_GROUPS.sub(lambda number: _GROUP_MARK.sub("", number.group()), text)


_SPACING = re.compile(
    r"(\\\\)|\\[,;:!> ]|~|\\q?quad(?![A-Za-z])|\\hspace\*?\{[^{}]*\}|\\(?:thin|med|thick)space(?![A-Za-z])"
)
_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg"
    r"|bf|rm|it|boldsymbol|bm|tiny|small|large|Large|LARGE|huge|Huge)(?![A-Za-z])"
)
_LEFT_RIGHT = re.compile(r"\\(?:left|right|middle)(?![A-Za-z])\s*\.?(?=[\s()\[\]|\\./]|$)")


def drop_spacing_and_style(text: str) -> str:
    r"""Spacing and size say nothing: `2\,x`, `\left(1, 2\right)`, `\displaystyle\frac12`, `5~cm`."""
    # Order: a thin space inside a number was a separator, and is gone by now.
    text = _SPACING.sub(lambda found: found.group(1) or " ", text)
    text = re.sub(r"\\(left|right)\s*\.", "", text)
    return _STYLE.sub("", _LEFT_RIGHT.sub("", text))


_FONT = re.compile(
    r"\\(text(?:bf|it|rm|sf|tt|normal)?|mathrm|mathbf|mathit|mathsf|mathtt|mathnormal|mbox|operatorname\*?"
    r"|boldsymbol|bm|emph|underline|hbox|ensuremath|pmb|textup)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)


def unwrap_fonts(text: str) -> str:
    r"""Fonts say nothing: `\text{east}` east, `\textbf{(D)}` (D), `5\text{ cm}` 5 cm, `\mathrm{e}^x` e^x."""
    for _ in range(6):
        text, count = _FONT.subn(_unwrap_font, text)
        if not count:
            break
    return text


def _unwrap_font(found: re.Match[str]) -> str:
    command, inner = found.groups()
    if command.startswith("operatorname") and inner.strip() in ("sin", "cos", "tan", "log", "ln", "exp", "arctan"):
        return f"\\{inner.strip()} "
    if len(inner.strip()) < 2 and not command.startswith(("text", "mbox")):
        before = found.string[max(0, found.start() - 12) : found.start()]
        return f" {inner}" if re.search(r"\\[A-Za-z]+$", before) else inner  # `^\circ\mathrm{C}` is no `\circC`
    return f" {inner} "


_CURRENCY = re.compile(r"\\\$|\\textdollar(?![A-Za-z])|\\pounds(?![A-Za-z])|\\euro(?![A-Za-z])|[€£¥₹]|US\\?\$|\bUSD\b")


def drop_currency(text: str) -> str:
    r"""Money is its number: `\$36`, `\$18.90`, `$18.90` (a dollar that no other closes), `€5`, `-\$5`."""
    text = _CURRENCY.sub("", text)
    if text.count("$") == 1:
        text = text.replace("$", "")
    return text


_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    ("\\(", "\\)"),
    ("\\[", "\\]"),
    ("**", "**"),
    ("__", "__"),
    ("_", "_"),
    ("`", "`"),
)
_BOX = re.compile(r"\\(?:boxed|fbox|framebox|mathbox)\s*\{")


def unwrap(text: str) -> str:
    r"""What encloses the whole of an answer goes: `$5$`, `\(5\)`, `**5**`, `` `5` ``, `\boxed{5}`, `{5}`."""
    while True:
        text = text.strip()
        for opening, closing in _WRAPPERS:
            inner = text[len(opening) : len(text) - len(closing)]
            encloses = len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing)
            escaped = opening == "$" and inner.endswith("\\")
            if encloses and opening not in inner and closing not in inner and not escaped:
                text = inner
                break
        else:
            box = _BOX.match(text)
            if box and (end := closing_brace(text, box.end())) == len(text) - 1:
                text = text[box.end() : end]
            elif text.startswith("{") and closing_brace(text, 1) == len(text) - 1:
                text = text[1:-1]
            else:
                return text


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace closes that was opened just before `start`; None where it never does. `\\{` is no brace."""
    depth, position = 1, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None


_MATH_MARKS = re.compile(r"(?<!\\)\$\$?|\\[()\[\]](?!\d*(?:pt|em|ex|mm)\])")


def drop_math_marks(text: str) -> str:
    r"""Dollars within an answer only mark mathematics: `1;$\frac{8}{9}$`, `20 $cm^{2}$`, `$5$;$10$`."""
    return _MATH_MARKS.sub("", text)


_FRACTION_NAMES = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_BARE_FRACTION = re.compile(r"\\frac\s*(?!\{)(\d|[A-Za-z]|\\[A-Za-z]+)\s*")
_HALF_BARE_FRACTION = re.compile(r"(\\frac\{(?:[^{}]|\{[^{}]*\})*\})\s*(?!\{)(\d|[A-Za-z]|\\[A-Za-z]+)")
_BARE_ROOT = re.compile(r"\\sqrt\s*(?![\[{])(\d|[A-Za-z]|\\[A-Za-z]+)")
_BARE_POWER = re.compile(r"\^\s*(?!\{)(-?\d+|[A-Za-z]|\\[A-Za-z]+)")
_PAREN_POWER = re.compile(r"\^\s*\(([^()]*)\)")
_BARE_INDEX = re.compile(r"_\s*(?!\{)(\d+|[A-Za-z]|\\[A-Za-z]+)")


def brace_arguments(text: str) -> str:
    r"""Arguments get braces: `\dfrac12`, `\frac1{2}`, `\sqrt2`, `x^10` (people mean x^{10}), `2^(1/2)`, `a_1`."""
    text = _FRACTION_NAMES.sub(r"\\frac", text)
    text = _BARE_FRACTION.sub(r"\\frac{\1}", text)
    text = _HALF_BARE_FRACTION.sub(r"\1{\2}", text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = _PAREN_POWER.sub(r"^{\1}", text)
    text = _BARE_POWER.sub(r"^{\1}", text)
    return _BARE_INDEX.sub(r"_{\1}", text)


_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])(sqrt|cbrt)\s*\(")
_PLAIN_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp)"
    r"(?=\s*[({\\^_\d]|\s*[A-Za-z](?![A-Za-z]))"
)
_PLAIN_PI = re.compile(r"(?<![\\A-Za-z])(?:pi|Pi|PI)(?![A-Za-z])")
_PLAIN_INFINITY = re.compile(r"(?<![\\A-Za-z])(?:infinity|infty|inf|oo)(?![A-Za-z])", re.IGNORECASE)


def code_to_latex(text: str) -> str:
    r"""Formulas as programs write them: `sqrt(2)/2`, `2**3`, `3*x`, `pi/2`, `sin(x)`, `C(10, 5)`, `infinity`."""
    text = text.replace("**", "^")
    while found := _PLAIN_ROOT.search(text):
        end = _closing_parenthesis(text, found.end())
        if end is None:
            break
        root = "\\sqrt{" if found.group(1) == "sqrt" else "\\sqrt[3]{"
        text = f"{text[: found.start()]}{root}{text[found.end() : end]}}}{text[end + 1 :]}"
    text = _COMBINATIONS.sub(_binomial, text)
    text = _PLAIN_PI.sub(r"\\pi ", text)
    text = _PLAIN_INFINITY.sub(r"\\infty ", text)
    return _PLAIN_FUNCTION.sub(r"\\\1", text)


_COMBINATIONS = re.compile(
    r"(?<![\\A-Za-z])(?:C\((\d+|n),\s*(\d+|k|r)\)|(?:\{\}_\{?(\d+)\}?\s*)C_\{?(\d+)\}?|C_\{?(\d+|n)\}?\^\{?(\d+|k|r|m)\}?)"
)


def _binomial(found: re.Match[str]) -> str:
    top, bottom = (part for part in found.groups() if part is not None)
    is_number = top.isdigit() and bottom.isdigit()
    return found.group() if is_number and int(top) < int(bottom) else rf"\binom{{{top}}}{{{bottom}}}"


def _closing_parenthesis(text: str, start: int) -> int | None:
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return None


_SYNONYMS = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\\leq(?:slant|q)?(?![A-Za-z])|\\leqslant(?![A-Za-z])|<=", r"\\le "),
        (r"\\geq(?:slant|q)?(?![A-Za-z])|\\geqslant(?![A-Za-z])|>=", r"\\ge "),
        (r"\\ne(?![A-Za-z])|!=", r"\\neq "),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
        (r"\{?\s*(\d+|[A-Za-z])\s*\\choose\s*(\d+|[A-Za-z])\s*\}?", r"\\binom{\1}{\2}"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\rightarrow(?![A-Za-z])|\\longrightarrow(?![A-Za-z])", r"\\to "),
        (r"\\varnothing(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"(?<=\d)\{:\}(?=\d)", ":"),
        (r"\\l?vert(?![A-Za-z])|\\rvert(?![A-Za-z])|\\mid(?![A-Za-z])", "|"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\lbrack(?![A-Za-z])", "["),
        (r"\\rbrack(?![A-Za-z])", "]"),
        (r"\\degree(?![A-Za-z])|\^\s*\\circ(?![A-Za-z])|\^\s*\{\s*\\circ\s*\}", r"^{\\circ}"),
        (r"\\(?:infin|Infinity)(?![A-Za-z])", r"\\infty "),
        (r"\+\s*\\infty", r"\\infty"),
        (r"\\R(?![A-Za-z])", r"\\mathbb{R}"),
        (r"\\(?:l|c)?dots(?![A-Za-z])", r"\\ldots "),
        (r"\\mathbb\s*R(?![A-Za-z])", r"\\mathbb{R}"),
        (r"\\%", "%"),
        (r"\\&", "&"),
        (r"\\#", "#"),
        (r"(?<=\d)\s*\\(?:ast|star)\s*(?=\d)", r"\\times "),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\lvec|\\overrightarrow(?![A-Za-z])", r"\\vec"),
        (r"(?<![A-Za-z\\])(?:per\s?cent|percentage points?|pct)(?![A-Za-z])", "%"),
    )
)


def one_name_each(text: str) -> str:
    r"""One command of those that mean the same: `\leq` \le, `\varnothing` \emptyset, `+\infty` \infty, `\%` %."""
    for pattern, word in _SYNONYMS:
        text = pattern.sub(word, text)
    return text


_FINAL = re.compile(r"(?:\s|\\\\|\\[.,;:! ]|[.;,!:])+$")
_FACTORIAL_LAST = re.compile(r"(.*[\dnk)}]!)(?:\s|\\[,;: ]|\.)*", re.DOTALL)
_BACKSLASH_LAST = re.compile(r"(?:\\\s*)+$")
_SAID_FIRST = re.compile(r"^(?:(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is|:|=)\s*:?\s*)(?=\S)", re.IGNORECASE)
_COLOUR = re.compile(r"\\(?:text)?color\s*\{[A-Za-z]+\}")
_ONE_CELL = re.compile(
    r"\\begin\{(aligned|gathered|split|array|align\*?)\}(?:\{[lcr|]+\})?([^&\\]*)&?([^&]*)\\end\{\1\}"
)
_REPEATED = re.compile(r"(\.\d{0,9}?(\d)\2\2+)\s*(?:\.{3}|…)")
_CHINESE_WORDS = re.compile(r"^约\s*(?=[\d\\.-])|(?<=[分要])条件$")
_RELATION_FIRST = re.compile(r"^\s*(?:=|\\(?:approx|sim|simeq|therefore|implies|Rightarrow|to)(?![A-Za-z]))\s*(?=\S)")


_ALIGNED = re.compile(r"\\begin\{(aligned|align\*?|split|gathered)\}((?:(?!\\begin).)*?)\\end\{\1\}", re.DOTALL)


def _rows(found: re.Match[str]) -> str:
    """One chain of equations in several rows: `x &= 2+3 \\\\ &= 5`."""
    rows = [row.replace("&", " ").strip() for row in found.group(2).split("\\\\")]
    rows = [row for row in rows if row]
    return " ".join(rows) if all(row.startswith("=") for row in rows[1:]) else found.group()


def _cell(found: re.Match[str]) -> str:
    """What an environment of a single row holds: `\\begin{aligned} x &= 5 \\end{aligned}` is no table."""
    left, right = found.group(2), found.group(3)
    return found.group() if "\\\\" in right or "\\begin" in right else left + right


def drop_final_punctuation(text: str) -> str:
    r"""A full stop ends the sentence and not the number: `42.`, `3.14.`, `B.`, `5;`, `x = 3,`; `10!` is a factorial."""
    factorial = _FACTORIAL_LAST.fullmatch(text)
    return factorial.group(1) if factorial else _FINAL.sub("", text)


MOST_CHARS = 2000
"""Longer texts are no answers that mathematics could compare."""


_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,20}(?:\.[0-9]{1,20})?")

_SIGN_WORD = re.compile(
    r"(?<![\d)}\]$]\s)(?<!\b[A-Za-z]\s)\b(?:minus|negative)\s+(?=[\d.]|\\[dtc]?frac|\\sqrt|\\pi)", re.IGNORECASE
)


def signs_in_words(text: str) -> str:
    """`minus 1` is -1, and `the answer is negative 3` ends in -3; `5 minus 1` and `x minus 1` stay differences."""
    if text.isascii():  # beyond ASCII there are other letters that count as these without case
        lower = text.lower()
        if "minus" not in lower and "negative" not in lower:
            return text
    return _SIGN_WORD.sub("-", text)


def normalise(text: str) -> str:
    """The answer in its one way of writing; may be empty. A text of more than `MOST_CHARS` stays as it is."""
    if _PLAIN_NUMBER.fullmatch(text):
        return text  # most answers
    return _normalise(text) if len(text) <= MOST_CHARS else text.strip()


@lru_cache(maxsize=8192)
def _normalise(text: str) -> str:
    text = unwrap(_BACKSLASH_LAST.sub("", html_to_characters(text)).strip())
    text = _REPEATED.sub(r"\1\\ldots ", join_thin_groups(text))
    text = unwrap(drop_final_punctuation(unicode_to_latex(text)))
    text = drop_currency(text)
    text = drop_math_marks(unwrap(text))
    text = drop_spacing_and_style(_ALIGNED.sub(_rows, _ONE_CELL.sub(_cell, _COLOUR.sub("", text))))
    text = _SAID_FIRST.sub("", unwrap_fonts(text).strip())
    text = one_name_each(text)
    text = code_to_latex(text)
    text = brace_arguments(text)
    text = _CHINESE_WORDS.sub("", text)
    text = _RELATION_FIRST.sub("", drop_final_punctuation(" ".join(text.split())))
    return unwrap(text)


_ARTICLE = re.compile(r"^(?:an?|the)\s+(?=[a-z]{3})")
_QUOTED = re.compile(r"^(['\"])(.*)\1$", re.DOTALL)
_WORDY = re.compile(r"[A-Za-z]{2,}")
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def text_key(normalised: str) -> str:
    r"""What two normalised answers share that are the same text: without spaces and outer quotes, words without case.

    `(1, 2)` and `(1,2)`; `East` and `east`; `x` and `X` differ, for a letter alone is a symbol; `1 2` and `12` differ,
    for the space between two digits parts numbers.
    """
    text = _QUOTED.sub(r"\2", normalised.strip())
    bare = _COMMAND.sub(" ", text)
    if _WORDY.search(bare) and not re.search(r"[=^_{}]", text):
        text = _ARTICLE.sub("", text.casefold())
    return _LOOSE_SPACE.sub("", text)
