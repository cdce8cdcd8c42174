"""Right responses: an answer key in every place and notation in which a person would accept it.

Each form takes a key and gives a response, or None where it does not apply. Forms are text in, text out, and
know nothing of how any grader reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

Form = Callable[[str], str | None]

INTEGER = re.compile(r"-?\d+")
DECIMAL = re.compile(r"-?\d*\.\d+")
FRACTION = re.compile(r"(-?)\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
SCIENTIFIC = re.compile(r"(-?\d+(?:\.\d+)?)e([-+]?\d+)")
PLAIN_WORD = re.compile(r"\\text\{([A-Za-z ]+)\}")
CHOICE = re.compile(r"(?:\\text\{)?\(?(?:\\text\{)?([A-H])\}?\)?\}?")
QUANTITY = re.compile(r"([\d.,]+?) ?\\(?:text|mbox|textnormal)\{ ?([A-Za-z]{2,}) ?\}")
DEGREES = re.compile(r"(-?[\d.]+) ?\^(?:\\circ|\{\\circ\})")
PERCENT = re.compile(r"(\d+(?:\.\d+)?) ?\\?%")
MONEY = re.compile(r"\\\$ ?(\d[\d.]*)")
BASED = re.compile(r"(\d+)_\{?(\d+)\}?")
GROUPED = re.compile(r"(-?\d{1,3})((?:,\\!\s?\d{3})+)")
MATRIX = re.compile(r"\\begin\{pmatrix\}.*\\end\{pmatrix\}", re.DOTALL)
TUPLE = re.compile(r"(?:\\left)?([(\[])([^()\[\]]*,[^()\[\]]*?)(?:\\right)?([)\]])")
INTERVAL = re.compile(r"([(\[])\s*(-?[\d/.]+|-\\infty)\s*,\s*(-?[\d/.]+|\\infty)\s*([)\]])")
LIST = re.compile(r"(?!-?\d{1,3}(?:,\d{3})+$)-?[\d/]+(?:,\s*-?[\d/]+)+")
NAMED = re.compile(r"([a-zA-Z]) ?= ?([^=]+)")
_BASE_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def box(text: str) -> str:
    return f"The final answer is $\\boxed{{{text}}}$."


def is_number(key: str) -> bool:
    return bool(INTEGER.fullmatch(key) or DECIMAL.fullmatch(key) or FRACTION.fullmatch(key))


PLACED: dict[str, Form] = {
    "bare": lambda k: f"\\boxed{{{k}}}",
    "in dollars": box,
    "displayed": lambda k: f"Hence\n\\[\n\\boxed{{{k}}}\n\\]\n",
    "padded": lambda k: f"\\boxed{{  {k}  }}",
    "over lines": lambda k: f"\\boxed{{\n{k}\n}}",
    "bold": lambda k: f"**Answer:** **$\\boxed{{{k}}}$**",
    "dollars inside": lambda k: f"\\boxed{{${k}$}}" if "$" not in k else None,
    "displaystyle": lambda k: f"$\\boxed{{\\displaystyle {k}}}$",
    "fbox": lambda k: f"\\fbox{{{k}}}",
    "twice": lambda k: f"We get $\\boxed{{{k}}}$.\n\nFinal answer: $\\boxed{{{k}}}$",
    "box in a box": lambda k: f"\\boxed{{\\boxed{{{k}}}}}",
    "before prose": lambda k: f"It is $\\boxed{{{k}}}$, as was to be shown. I hope it is correct.",
    "after thoughts": lambda k: f"<think>Perhaps \\boxed{{17/4}}? No.</think>\nSo $\\boxed{{{k}}}$.",
    "after a wrong one": lambda k: (
        f"First I had \\boxed{{123457}}, but I forgot a term. Corrected: \\boxed{{{k}}}"
    ),
    "after long work": lambda k: "We try $x = 3$ and get 7.\n" * 900 + f"So $\\boxed{{{k}}}$.",
}


STATED: dict[str, Form] = {
    "the answer is": lambda k: f"The answer is ${k}$." if "$" not in k else None,
    "answer:": lambda k: f"We add both.\n\nAnswer: {k}",
    "final answer, hope": lambda k: (
        f"Final Answer: The final answer is ${k}$. I hope it is correct." if "$" not in k else None
    ),
    "hashes": lambda k: f"We add both.\n#### {k}",
    "displayed last": lambda k: f"**Final Answer**\n\n\\[\n{k}\n\\]" if "$" not in k else None,
    "so in brackets": lambda k: (
        f"Both terms vanish for $n = 3$. So \\({k}\\)." if "$" not in k and "=" not in k else None
    ),
    "therefore": lambda k: f"Therefore, the answer is \\({k}\\)." if "$" not in k else None,
    "bold": lambda k: f"The answer is **{k}**." if "*" not in k and "$" not in k else None,
    "and how it was checked": lambda k: (
        f"The answer is ${k}$. I checked all 15 cases." if "$" not in k else None
    ),
    "plain": lambda k: f"The answer is {k}." if re.fullmatch(r"[\w./\-]+", k) else None,
    "a word": lambda k: f"The answer is {m[1]}." if (m := PLAIN_WORD.fullmatch(k)) else None,
    "final answer:": lambda k: f"It follows.\n\n**Final answer:** ${k}$" if "$" not in k else None,
}


# ---------------------------------------------------------------- notations


def _decimal_of(key: str) -> str | None:
    found = FRACTION.fullmatch(key)
    if not found:
        return None
    value = Fraction(int(found[1] + "1") * int(found[2]), int(found[3]))
    scaled = value * 10**6
    if scaled.denominator != 1:
        return None
    return f"{int(scaled) / 10**6:.6f}".rstrip("0").rstrip(".")


def _fraction_of(key: str) -> str | None:
    if not DECIMAL.fullmatch(key):
        return None
    value = Fraction(key)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _improper_of(key: str) -> str | None:
    found = re.fullmatch(r"(\d+) ?\\frac\{(\d+)\}\{(\d+)\}", key)
    return f"\\frac{{{int(found[1]) * int(found[3]) + int(found[2])}}}{{{found[3]}}}" if found else None


def _mixed_of(key: str, *, plain: bool) -> str | None:
    found = FRACTION.fullmatch(key)
    if not found or found[1] or int(found[2]) <= int(found[3]) or int(found[2]) % int(found[3]) == 0:
        return None
    whole, rest = divmod(int(found[2]), int(found[3]))
    return f"{whole} {rest}/{found[3]}" if plain else f"{whole}\\frac{{{rest}}}{{{found[3]}}}"


def _grouped(key: str, mark: str) -> str | None:
    return f"{int(key):,}".replace(",", mark) if INTEGER.fullmatch(key) and abs(int(key)) > 999 else None


def _when(pattern: re.Pattern[str], make: Callable[[re.Match[str]], str | None]) -> Form:
    def form(key: str) -> str | None:
        found = pattern.fullmatch(key)
        text = make(found) if found else None
        return None if text is None else box(text)

    return form


def _if(make: Callable[[str], str | None]) -> Form:
    """``make`` gives what the box holds; a form that changes nothing is left out."""

    def form(key: str) -> str | None:
        text = make(key)
        return None if text is None or text == key else box(text)

    return form


def _has(mark: str, old: str, new: str) -> Form:
    return _if(lambda k: re.sub(old, new, k) if re.search(mark, k) else None)


def _inequality(found: re.Match[str]) -> str | None:
    low, high = found[2], found[3]
    below = {"[": "\\le", "(": "<"}[found[1]]
    above = {"]": "\\le", ")": "<"}[found[4]]
    if "infty" in low and "infty" in high:
        return None
    if "infty" in low:
        return f"x {above} {high}"
    if "infty" in high:
        return f"x {below.replace('le', 'ge').replace('<', '>')} {low}"
    return f"{low} {below} x {above} {high}"


def _or_of(key: str) -> str | None:
    parts = re.split(r"\s*\\cup\s*", key)
    found = [INTERVAL.fullmatch(part) for part in parts]
    if len(parts) < 2 or not all(found):
        return None
    return " \\text{ or } ".join(text for part in found if part and (text := _inequality(part)))


def _reordered(key: str) -> str | None:
    """``a + b - c`` as ``b + a - c``; only plain sums."""
    found = re.fullmatch(r"([\w{}^\\ ]+?) ?\+ ?([\w{}^\\ ]+)", key)
    if not found or "text" in key or "pm" in key or found[1].count("{") != found[1].count("}"):
        return None
    return f"{found[2]} + {found[1]}"


NOTATION: dict[str, Form] = {
    "dfrac": _has(r"\\frac", r"\\frac", r"\\dfrac"),
    "tfrac": _has(r"\\frac", r"\\frac", r"\\tfrac"),
    "frac12": _has(r"\\frac\{\d\}\{\d\}", r"\\frac\{(\d)\}\{(\d)\}", r"\\frac\1\2"),
    "slash": _when(FRACTION, lambda m: f"{m[1]}{m[2]}/{m[3]}"),
    "sign inside": _when(FRACTION, lambda m: f"\\frac{{-{m[2]}}}{{{m[3]}}}" if m[1] else None),
    "decimal of a fraction": _if(_decimal_of),
    "fraction of a decimal": _if(_fraction_of),
    "unreduced": _when(FRACTION, lambda m: f"{m[1]}\\frac{{{2 * int(m[2])}}}{{{2 * int(m[3])}}}"),
    "mixed to improper": _if(_improper_of),
    "improper to mixed": _if(lambda k: _mixed_of(k, plain=False)),
    "improper to mixed, plain": _if(lambda k: _mixed_of(k, plain=True)),
    "point zero": _when(INTEGER, lambda m: f"{m[0]}.0"),
    "a zero more": _when(DECIMAL, lambda m: f"{m[0]}0"),
    "plus": _when(re.compile(r"\d+"), lambda m: f"+{m[0]}"),
    "over one": _when(INTEGER, lambda m: f"\\frac{{{m[0]}}}{{1}}"),
    "thousands ,": _if(lambda k: _grouped(k, ",")),
    "thousands {,}": _if(lambda k: _grouped(k, "{,}")),
    "thousands ,\\!": _if(lambda k: _grouped(k, ",\\!")),
    "thousands \\,": _if(lambda k: _grouped(k, "\\,")),
    "thousands ~": _if(lambda k: _grouped(k, "~")),
    "grouped to plain": _when(GROUPED, lambda m: re.sub(r"[^\d-]", "", m[0])),
    "grouped to \\,": _when(GROUPED, lambda m: re.sub(r",\\!\s?", r"\\,", m[0])),
    "text around a number": _if(lambda k: f"\\text{{{k}}}" if re.fullmatch(r"-?[\d.,]+", k) else None),
    "bold number": _if(lambda k: f"\\mathbf{{{k}}}" if re.fullmatch(r"-?[\d.]+", k) else None),
    "unicode minus": _has("-", "-", "−"),  # noqa: RUF001
    "full stop": _if(lambda k: f"{k}." if k[-1] != "." else None),
    "in dollars": _if(lambda k: f"${k}$" if "$" not in k else None),
    "thin spaces": _if(lambda k: f"\\,{k}\\;"),
    "x =": _if(lambda k: f"x = {k}" if is_number(k) else None),
    "= x": _if(lambda k: f"{k} = x" if is_number(k) else None),
    "f(x) =": _if(lambda k: f"f(2) = {k}" if is_number(k) else None),
    "approx": _when(DECIMAL, lambda m: f"\\approx {m[0]}"),
    "braces": _if(lambda k: f"{{{k}}}"),
    "times ten": _when(SCIENTIFIC, lambda m: f"{m[1]} \\times 10^{{{int(m[2])}}}"),
    "cdot ten": _when(SCIENTIFIC, lambda m: f"{m[1]}\\cdot 10^{{{int(m[2])}}}"),
    "star ten": _when(SCIENTIFIC, lambda m: f"{m[1]}*10^{int(m[2])}" if int(m[2]) >= 0 else None),
    "E": _when(SCIENTIFIC, lambda m: m[0].replace("e", "E")),
    "written out": _when(SCIENTIFIC, lambda m: _written_out(m[0])),
    "e of a decimal": _when(re.compile(r"0\.00\d+"), lambda m: f"{Fraction(m[0]) * 1000}e-3" if (Fraction(m[0]) * 1000).denominator == 1 else None),
    "left right": _if(lambda k: re.sub(r"[)\]]$", lambda m: f"\\right{m[0]}", re.sub(r"^[(\[]", lambda m: f"\\left{m[0]}", k)) if TUPLE.fullmatch(k) and "\\left" not in k else None),
    "no left right": _has(r"\\left", r"\\(left|right)", ""),
    "tilde": _if(lambda k: re.sub(r",\s*", ",~", k) if "," in k and "\\!" not in k and "{,}" not in k and not re.search(r",\d{3}", k) else None),
    "thin comma": _if(lambda k: re.sub(r",\s*", r",\\, ", k) if "," in k and "\\!" not in k and "{,}" not in k and not re.search(r",\d{3}", k) else None),
    "no spaces": _if(lambda k: re.sub(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])", "", k) if "text" not in k and "mbox" not in k else None),
    "list reversed": _when(LIST, lambda m: ", ".join(reversed(re.split(r",\s*", m[0])))),
    "list as a set": _when(LIST, lambda m: f"\\{{{m[0]}\\}}"),
    "list with and": _when(LIST, lambda m: re.sub(r",\s*(?=[^,]*$)", r" \\text{ and } ", m[0])),
    "inequality": _when(INTERVAL, _inequality),
    "or of inequalities": _if(_or_of),
    "x in": _if(lambda k: f"x \\in {k}" if INTERVAL.match(k) and ("[" in k or "infty" in k) else None),
    "plus infinity": _has(r"(?<!-)\\infty", r"(?<!-)\\infty", r"+\\infty"),
    "unicode infinity": _has(r"\\infty", r"\\infty", "∞"),
    "unicode union": _has(r"\\cup", r"\\cup", "∪"),  # noqa: RUF001
    "root of one sign": _has(r"\\sqrt\{\d\}", r"\\sqrt\{(\d)\}", r"\\sqrt\1"),
    "unicode root": _has(r"\\sqrt\{\d+\}", r"\\sqrt\{(\d+)\}", r"√\1"),
    "sqrt()": _has(r"\\sqrt\{[^{}]*\}", r"\\sqrt\{([^{}]*)\}", r"\\sqrt(\1)"),
    "sqrt in letters": _if(lambda k: re.sub(r"\\sqrt\{(\d+)\}", r"sqrt(\1)", k) if re.fullmatch(r"-?\d*\\sqrt\{\d+\}", k) else None),
    "cdot before a root": _has(r"\d ?\\sqrt", r"(\d) ?\\sqrt", r"\1 \\cdot \\sqrt"),
    "times before a root": _has(r"\d ?\\sqrt", r"(\d) ?\\sqrt", r"\1\\times\\sqrt"),
    "star before a root": _has(r"\d ?\\sqrt", r"(\d) ?\\sqrt", r"\1*\\sqrt"),
    "unicode pi": _has(r"\\pi", r"\\pi", "π"),
    "pi in letters": _if(lambda k: re.sub(r"\s*\\pi", "*pi", k) if re.fullmatch(r"\d+ ?\\pi", k) else None),
    "2 pi": _if(lambda k: re.sub(r"\s*\\pi", " pi", k) if re.fullmatch(r"\d+ ?\\pi", k) else None),
    "cdot before pi": _has(r"\d ?\\pi", r"(\d) ?\\pi", r"\1 \\cdot \\pi"),
    "degree sign": _when(DEGREES, lambda m: f"{m[1]}°"),
    "no degree": _when(DEGREES, lambda m: m[1]),
    "degrees": _when(DEGREES, lambda m: f"{m[1]} \\text{{ degrees}}"),
    "degrees in letters": _when(DEGREES, lambda m: f"{m[1]} degrees"),
    "degree and stop": _when(DEGREES, lambda m: f"{m[1]}^\\circ."),
    "no percent": _when(PERCENT, lambda m: m[1]),
    "percent": _when(PERCENT, lambda m: f"{m[1]} percent"),
    "text percent": _when(PERCENT, lambda m: f"{m[1]}\\text{{ percent}}"),
    "percent sign": _when(PERCENT, lambda m: f"{m[1]}%"),
    "percent as a decimal": _when(PERCENT, lambda m: f"{float(Fraction(m[1]) / 100):.10g}"),
    "percent as a fraction": _when(PERCENT, lambda m: _as_fraction(Fraction(m[1]) / 100)),
    "no dollar": _when(MONEY, lambda m: m[1]),
    "dollars": _when(MONEY, lambda m: f"{m[1]}\\text{{ dollars}}"),
    "dollar apart": _when(MONEY, lambda m: f"\\$ {m[1]}"),
    "no unit": _when(QUANTITY, lambda m: m[1]),
    "mathrm unit": _when(QUANTITY, lambda m: f"{m[1]}\\ \\mathrm{{{m[2]}}}"),
    "thin unit": _when(QUANTITY, lambda m: f"{m[1]}\\,\\text{{{m[2]}}}"),
    "unit in letters": _when(QUANTITY, lambda m: f"{m[1]} {m[2]}"),
    "a unit": _if(lambda k: f"{k}\\text{{ units}}" if INTEGER.fullmatch(k) else None),
    "a unit in letters": _if(lambda k: f"{k} apples" if INTEGER.fullmatch(k) else None),
    "money for a number": _if(lambda k: f"\\${k}" if re.fullmatch(r"\d+", k) else None),
    "base in braces": _when(BASED, lambda m: f"{m[1]}_{{{m[2]}}}" if m[0][-1] != "}" else f"{m[1]}_{m[2]}" if len(m[2]) == 1 else None),
    "base in text": _when(BASED, lambda m: f"{m[1]}_{{\\text{{{m[2]}}}}}"),
    "base in words": _when(BASED, lambda m: f"{m[1]}_{{\\text{{{_BASE_WORDS[int(m[2])]}}}}}" if int(m[2]) in _BASE_WORDS else None),
    "base in brackets": _when(BASED, lambda m: f"({m[1]})_{{{m[2]}}}"),
    "choice (C)": _when(CHOICE, lambda m: f"({m[1]})"),
    "choice C": _when(CHOICE, lambda m: m[1]),
    "choice \\text{C}": _when(CHOICE, lambda m: f"\\text{{{m[1]}}}"),
    "choice \\text{(C)}": _when(CHOICE, lambda m: f"\\text{{({m[1]})}}"),
    "choice \\textbf{(C)}": _when(CHOICE, lambda m: f"\\textbf{{({m[1]})}}"),
    "choice \\mathrm{C}": _when(CHOICE, lambda m: f"\\mathrm{{{m[1]}}}"),
    "choice C.": _when(CHOICE, lambda m: f"{m[1]}."),
    "word": _when(PLAIN_WORD, lambda m: m[1].strip()),
    "word.": _when(PLAIN_WORD, lambda m: f"\\text{{{m[1].strip()}.}}"),
    "bold word": _when(PLAIN_WORD, lambda m: f"\\textbf{{{m[1]}}}"),
    "word in capitals": _when(PLAIN_WORD, lambda m: f"\\text{{{m[1].capitalize()}}}"),
    "bmatrix": _has(r"pmatrix", "pmatrix", "bmatrix"),
    "tight matrix": _when(MATRIX, lambda m: re.sub(r"\s*(&|\\\\)\s*", r"\1", m[0])),
    "matrix of slashes": _when(MATRIX, lambda m: re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", m[0]) if "\\frac{" in m[0] else None),
    "right side alone": _when(NAMED, lambda m: m[2]),
    "sum reordered": _if(_reordered),
    "answer is, in the box": _if(lambda k: f"\\text{{Answer: }} {k}" if is_number(k) else None),
}  # fmt: skip


def _as_fraction(value: Fraction) -> str:
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _written_out(text: str) -> str | None:
    value = Fraction(text)
    if abs(int(text.partition("e")[2])) > 9:
        return None
    return str(value) if value.denominator == 1 else f"{float(value):.12f}".rstrip("0")
