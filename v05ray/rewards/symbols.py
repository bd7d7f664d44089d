r"""Characters of mathematics and their LaTeX commands. Standard library only."""

import html
import re
import unicodedata

_MINUS = "\u2212\u2012\u2013\u2014\ufe63\uff0d\u2011\u2010"
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ", "0123456789+-()n")
_GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "ζ": "zeta",
    "η": "eta",
    "θ": "theta",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "ν": "nu",
    "ξ": "xi",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "phi",
    "ϕ": "phi",
    "χ": "chi",
    "ψ": "psi",
    "ω": "omega",
    "Γ": "Gamma",
    "Δ": "Delta",
    "Θ": "Theta",
    "Λ": "Lambda",
    "Π": "Pi",
    "Σ": "Sigma",
    "Φ": "Phi",
    "Ψ": "Psi",
    "Ω": "Omega",
}
_SYMBOLS = {
    "×": "\\times ",
    "✕": "\\times ",
    "⋅": "\\cdot ",
    "·": "\\cdot ",
    "∙": "\\cdot ",
    "÷": "/",
    "∕": "/",
    "⁄": "/",
    "∞": "\\infty ",
    "≤": "\\le ",
    "⩽": "\\le ",
    "≥": "\\ge ",
    "⩾": "\\ge ",
    "≠": "\\neq ",
    "±": "\\pm ",
    "°": "^{\\circ}",
    "º": "^{\\circ}",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "Ø": "\\emptyset ",
    "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}",
    "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}",
    "→": "\\to ",
    "∠": "\\angle ",
    "△": "\\triangle ",
    "⊥": "\\perp ",
    "′": "'",
    "’": "'",
    "‘": "'",
    "“": '"',
    "”": '"',
    "，": ",",
    "、": ",",
    "；": ";",
    "：": ":",
    "。": ".",
    "（": "(",
    "）": ")",
    "【": "[",
    "】": "]",
    "｛": "\\{",
    "｝": "\\}",
    "％": "%",
    "＝": "=",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "\u3000": " ",
    "\u200b": "",
    "\ufeff": "",
    "\u2061": "",
}
_TABLE = str.maketrans(
    {minus: "-" for minus in _MINUS} | _SYMBOLS | {letter: f"\\{name} " for letter, name in _GREEK.items()}
)
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
_SUBSCRIPT_RUN = re.compile(r"[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙ]+")
_VULGAR = re.compile("[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]")
_STATEMENT_MARKS = re.compile("([①-⑳])")
_ROOT = re.compile(r"(√|∛)\s*(\d+(?:\.\d+)?|\([^()]*\)|\{[^{}]*\}|\\?[A-Za-z]+|(?=\\?[a-z]))")


def unicode_to_latex(text: str) -> str:
    r"""Characters of mathematics become commands: `−5` -5, `11√2` 11\sqrt{2}, `x²` x^{2}, `1½` 1\frac{1}{2}, `90°`."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{{{run.group().translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: f"_{{{run.group().translate(_SUBSCRIPTS)}}}", text)
    text = _VULGAR.sub(_vulgar_fraction, text)
    text = _ROOT.sub(_root, text)
    # A statement's mark is no number: compatibility forms would make `①③` 13.
    pieces = _STATEMENT_MARKS.split(text.translate(_TABLE))
    return "".join(piece if i % 2 else unicodedata.normalize("NFKC", piece) for i, piece in enumerate(pieces))


_ENTITY = re.compile(r"&(?:#\d{1,6}|#x[0-9a-fA-F]{1,5}|[A-Za-z]{2,8});")


_TAG = re.compile(r"</?(?:b|strong|i|em|u|span|p|code)>|<br\s*/?>", re.IGNORECASE)
_SUPERSCRIPT_TAG = re.compile(r"<sup>([^<>]{1,40})</sup>", re.IGNORECASE)


def without_tags(text: str) -> str:
    """Without tags of emphasis: `<b>5</b>` is 5, `x<sup>2</sup>` x^{2}."""
    text = _SUPERSCRIPT_TAG.sub(r"^{\1}", text)
    return _TAG.sub(lambda tag: "\n" if tag.group()[1:3].casefold() == "br" else "", text)


def html_to_characters(text: str) -> str:
    """Of text that was taken from a page: `x &lt; 5`, `5&nbsp;cm`, `90&deg;`, `<b>5</b>`."""
    text = without_tags(text) if "<" in text else text
    return _ENTITY.sub(lambda entity: html.unescape(entity.group()), text) if "&" in text else text


def _vulgar_fraction(character: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", character.group()).split("\u2044")
    return f"\\frac{{{top}}}{{{bottom}}}"


def _root(found: re.Match[str]) -> str:
    body = found.group(2)
    inner = body[1:-1] if body[:1] in "({" and body else body
    return f"\\sqrt[3]{{{inner}}}" if found.group(1) == "∛" else f"\\sqrt{{{inner}}}"
