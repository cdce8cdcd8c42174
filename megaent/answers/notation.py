"""Many ways to write mathematics, one to read: text in, text out, without a change of meaning.

What comes out has no markup that only places things (``\\left``, ``$``, thin spaces, Markdown), no Unicode
mathematics, ``\\frac`` for every kind of fraction, ``\\text{...}`` for every kind of upright text, and digits
without separators where these cannot be a list.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/",  # noqa: RUF001
    "π": r"\pi ", "∞": r"\infty ", "°": r"^{\circ}", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",  # noqa: RUF001
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",  # noqa: RUF001
    "λ": r"\lambda ", "μ": r"\mu ", "µ": r"\mu ", "ω": r"\omega ", "φ": r"\phi ",
    "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "δ": r"\delta ", "ε": r"\epsilon ", "Δ": r"\Delta ",  # noqa: RUF001
    "∠": "", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "√": r"\sqrt ",
    "′": "'", "’": "'", "‘": "'", "⁄": "/", "∕": "/", "％": "%",  # noqa: RUF001
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}", "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}",
    "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}", "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}",
    "\u200b": "", "\ufeff": "", "\u2061": "", "\u2062": "",
}  # fmt: skip
_SIGNS_TABLE = str.maketrans(_SIGNS)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_LOWERED = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

_THIN = r"(?:\{,\}\s*|,\s*\\!\s*|\\,\s*|\\;\s*|\\:\s*|\\ \s*|~|\u2009|\u202f|\u00a0|\ |_(?=\d{3}))"
_GROUPED = re.compile(rf"(?<![\d.])\d{{1,3}}(?:{_THIN}\d{{3}})+(?!\d|\s*/)")
_PLAIN_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d]|,\d)")

_MARKUP = (
    # What encloses all of it, or only places it.
    (re.compile(r"\\(?:boxed|fbox|framebox|emph|underline)(?=\s*\{)"), ""),
    (re.compile(r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|mathnormal)(?=\s*\{)"), ""),
    (re.compile(r"\\(?:hspace|vspace|phantom|hphantom|vphantom)\*?\{[^{}]*\}"), " "),
    (re.compile(r"\\[hv]?phantom(?![A-Za-z])"), " "),
    (re.compile(r"\\(?:left|right|middle)(?:\s*\.|(?![A-Za-z]))"), ""),
    (re.compile(r"\\(?:[bB]igg?[lrm]?|(?:display|text|script)style|(?:no)?limits|bf|rm|it)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:[dtcs]|nice)frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"^([^{}]*)\\over(?![A-Za-z])([^{}]*)$"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\(?:mathrm|text)\{([ei])\}"), r"\1 "),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:text(?:rm|bf|it|normal|sf|tt|up)|[mh]box|mathrm|operatorname\*?)(?=\s*{)"), r"\\text"),
    (re.compile(r"\\(?:leqslant|leqq|leq)(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\(?:geqslant|geqq|geq)(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\neq(?![A-Za-z])|(?<= )!=(?= )"), r"\\ne "),
    (re.compile(r"<=|≦"), r"\\le "),
    (re.compile(r">=|≧"), r"\\ge "),
    (re.compile(r"\\(?:approxeq|simeq|thickapprox)(?![A-Za-z])"), r"\\approx"),
    (re.compile(r"\\(?:lbrace|\{)"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![A-Za-z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![A-Za-z])"), "]"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:colon)(?![A-Za-z])"), ":"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\var(epsilon|phi|theta|rho)(?![A-Za-z])"), r"\\\1"),
    (re.compile(r"\\(?:degree|degrees)(?![A-Za-z])"), r"^{\\circ}"),
    (re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\textdegree"), r"\\deg "),
    (re.compile(r"\\prime(?![A-Za-z])"), "'"),
    (re.compile(r"\^\s*(?:\{\s*('(?:\s*')*)\s*\}|('))"), r"\1\2"),
    (re.compile(r"\\(?:[!,;:> ]|q?quad(?![A-Za-z]))"), " "),
    (re.compile(r"\\(?:angle|triangle)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:math(?:cal|scr|frak))\s*\{([A-Za-z])\}"), r"\1"),
    (re.compile(r"\\(?:smallsetminus|backslash)(?![A-Za-z])"), r"\\setminus"),
    # Binomial coefficients, as they are written here and there.
    (re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"^([^{}]*)\\choose(?![A-Za-z])([^{}]*)$"), r"\\binom{\1}{\2}"),
    (re.compile(r"\s*\(\s*([A-Za-z]\s*\\in\s*\\mathbb\s*\{?[ZNR]\}?[^()]*)\)\s*$"), r", \1"),
    (re.compile(r"\\_"), "_"),
    (re.compile(r"(?<!\\)\$"), ""),
    (re.compile(r"\*\*(?=[\d({A-Za-z-])(?<=[\d)}A-Za-z]\*\*)"), "^"),  # 2**3
    (re.compile(r"\*\*|^#+\s"), ""),  # Markdown
    (re.compile(r"(\d)\s*[xX]\s*(?=10\s*\^)"), r"\1\\times "),  # 3 x 10^8
    # Where nothing else is there: elsewhere these are constants and points with an index.
    (re.compile(r"^(?:\s|\{\s*\})*[_^]\s*\{?(\d+)\}?\s*C_\s*\{?(\d+)\}?\s*$"), r"\\binom{\1}{\2}"),
    (re.compile(r"^\s*C_\s*\{?(\d\d+|[3-9])\}?\s*\^\s*\{?(\d+)\}?\s*$"), r"\\binom{\1}{\2}"),
)  # fmt: skip
_LOST_ESCAPE = re.compile(r"\f(?=rac)|\x08(?=oxed|inom|egin)|\t(?=ext|imes|frac|heta|an\b)")
_DOUBLE_ESCAPE = re.compile(r"\\\\(?=[A-Za-z]{2,}|[{}%$,!])")
_DELIMITERS = re.compile(r"\\[()]|\\[\[\]](?!\s*\d*\.?\d*\s*(?:pt|em|ex)\b)")
_LINE_SKIP = re.compile(r"\\\\\s*\[\s*-?[\d.]*\s*(?:pt|em|ex|mm|cm)\s*\]")
_EVAL = re.compile(r"\b(?:np|numpy|math|sp|sympy)\.(?=[a-z])")
_TEXT_NUMBER = re.compile(r"\\text\s*\{\s*(\$?[-+]?[\d.,/\s%]*[\d%])\s*[.]?\s*\}")
_END = re.compile(r"(?:\s|(?<![\\.\d])\.|(?<=\d)\.|[,;:]|(?<!\\)\\)+$")
_GOES_ON = re.compile(r"^(-?\s*\d*\.\d*?)(?:(\d)\2{2,}|(\d{2,6}?)\3+)(?:\.\.\.|\\(?:ldots|dots|cdots)|…)$")
_EXPONENT_OF_UNIT = re.compile(r"(\\text\s*\{[^{}]*)\^\s*\{\s*(-?\d)\s*\}")
_ROOT = re.compile(r"(?:\\sqrt|(?<![A-Za-z\\])sqrt)\s*\(")
_BARE_ROOT = re.compile(r"√\s*(\d+|[A-Za-z])")


@lru_cache(maxsize=65536)
def rewrite(text: str) -> str:
    """``text`` in the one notation that ``read`` and ``tree`` know."""
    text = _without_unicode(_unescaped(text))
    text = _LINE_SKIP.sub(r"\\\\ ", text)
    text = join_digits(text)
    # Row ends of matrices are kept from the spaces.
    text = text.replace("\\\\", "\x00")
    text = _DELIMITERS.sub("", text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = _TEXT_NUMBER.sub(lambda m: m.group(1), text).replace("~", " ")
    while (flat := _EXPONENT_OF_UNIT.sub(r"\1^\2", text)) != text:
        text = flat
    text = _EVAL.sub("", text).replace("\x00", "\\\\ ")
    text = _GOES_ON.sub(_repeating, " ".join(text.split()))
    return _without_end(_without_braces(text))


def _repeating(found: re.Match[str]) -> str:
    """``0.333...`` as ``0.\\overline{3}``."""
    return f"{found.group(1)}\\overline{{{found.group(2) or found.group(3)}}}"


def join_digits(text: str) -> str:
    """``1{,}234``, ``1,\\!234``, ``19\\,200`` without separators; for commas see ``join_commas``."""
    return _GROUPED.sub(lambda found: "".join(re.findall(r"\d", found.group())), text)


def join_commas(text: str, *, in_brackets: bool = False) -> str:
    """``1,234`` as 1234. In brackets only where a group begins with 0: ``(1,000)``, but not ``(100,200)``."""

    def joined(found: re.Match[str]) -> str:
        number = found.group()
        if in_brackets and not any(group.startswith("0") for group in number.split(",")[1:]):
            return number
        return number.replace(",", "")

    return _PLAIN_GROUPED.sub(joined, text)


def plain(text: str) -> str:
    """``rewrite`` without spaces and idle braces: texts that are written alike are the same."""
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", join_commas(rewrite(text)))
    return re.sub(r"(?<=[\^_])\{(-?\w+)\}|\{(\w)\}", r"\1\2", text)


def _unescaped(text: str) -> str:
    """``\\\\frac`` and a form feed with ``rac`` as ``\\frac``: what was escaped twice, or not at all."""
    text = _LOST_ESCAPE.sub(lambda found: {"\f": "\\f", "\b": "\\b", "\t": "\\t"}[found.group()], text)
    return text if "\\begin" in text else _DOUBLE_ESCAPE.sub(r"\\", text)


def _without_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m.group().translate(_RAISED) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_LOWERED) + "}", text)
    text = _BARE_ROOT.sub(r"\\sqrt{\1}", text)
    # A whole number and its half are two signs beside each other.
    return unicodedata.normalize("NFKC", text.translate(_SIGNS_TABLE)).translate(_SIGNS_TABLE)


def _without_braces(text: str) -> str:
    """``{5}`` as 5, where the first brace closes at the very end."""
    while text.startswith("{") and text.endswith("}") and _closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for place, sign in enumerate(text):
        if place and text[place - 1] == "\\":
            continue
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return place == len(text) - 1
    return False


def _without_end(text: str) -> str:
    """Without the punctuation of a sentence at the end."""
    return _END.sub("", text).strip()
