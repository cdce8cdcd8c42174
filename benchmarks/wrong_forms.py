"""Responses that must not be paid: wrong by a small change, hedged, without an answer, or copied.

A form takes a key, the question and its worked solution and gives a response, or None where it does not apply or
where it would be right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from right_forms import (
    BASED,
    CHOICE,
    DECIMAL,
    FRACTION,
    INTEGER,
    INTERVAL,
    LIST,
    MATRIX,
    QUANTITY,
    TUPLE,
    box,
    is_number,
)

Form = Callable[[str, str, str], str | None]


def _value(key: str) -> Fraction | None:
    if INTEGER.fullmatch(key) or DECIMAL.fullmatch(key):
        return Fraction(key)
    found = FRACTION.fullmatch(key)
    return Fraction(int(found[1] + "1") * int(found[2]), int(found[3])) if found else None


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _changed(change: Callable[[Fraction], Fraction | None]) -> Form:
    def form(key: str, question: str, solution: str) -> str | None:
        value = _value(key)
        other = None if value is None else change(value)
        return None if other is None or other == value else box(_shown(other))

    return form


def _if(make: Callable[[str], str | None]) -> Form:
    def form(key: str, question: str, solution: str) -> str | None:
        text = make(key)
        return None if text is None or text == key else box(text)

    return form


def _other(key: str) -> str:
    """A wrong answer beside a right one."""
    value = _value(key)
    return "1789" if value is None else _shown(value + 1)


def _rounded(digits: int) -> Form:
    def change(key: str) -> str | None:
        value = _value(key)
        if value is None or value == 0:
            return None
        text = f"{float(value):.{digits}g}"
        return None if "e" in text or abs(Fraction(text) / value - 1) < Fraction(1, 10**5) else text

    return _if(change)


def _swapped(key: str) -> str | None:
    found = TUPLE.fullmatch(key)
    parts = found[2].split(",") if found else []
    return (
        f"{found[1]}{parts[1]},{parts[0]}{found[3]}"
        if found and len(parts) == 2 and parts[0].strip() != parts[1].strip()
        else None
    )


def _bracket(key: str) -> str | None:
    found = INTERVAL.fullmatch(key)
    if not found or "infty" in found[3]:
        return None
    return key.strip()[:-1] + {")": "]", "]": ")"}[found[4]]


def _without_one(key: str) -> str | None:
    parts = re.split(r",\s*", key) if LIST.fullmatch(key) else []
    return ", ".join(parts[:-1]) if len(parts) > 1 and parts[-1] not in parts[:-1] else None


def _transposed(key: str) -> str | None:
    if not MATRIX.fullmatch(key):
        return None
    rows = [[c.strip() for c in row.split("&")] for row in key[15:-13].split("\\\\") if row.strip()]
    if len({len(row) for row in rows}) != 1 or rows == [list(c) for c in zip(*rows, strict=True)]:
        return None
    body = " \\\\ ".join(" & ".join(column) for column in zip(*rows, strict=True))
    return f"\\begin{{pmatrix}} {body} \\end{{pmatrix}}"


def _digit_cut(key: str) -> str | None:
    return key[:-1] if re.fullmatch(r"\d{2,}", key) else None


def _last_digit(key: str) -> str | None:
    """The last digit another: near in size where the number is long."""
    return key[:-1] + str((int(key[-1]) + 1) % 10) if re.fullmatch(r"-?\d*\.\d+", key) else None


PERTURBED: dict[str, Form] = {
    "off by one": _changed(lambda v: v + 1),
    "one less": _changed(lambda v: v - 1),
    "other sign": _changed(lambda v: -v if v else None),
    "ten times": _changed(lambda v: 10 * v if v else None),
    "a hundredth": _changed(lambda v: v / 100 if v else None),
    "reciprocal": _changed(lambda v: 1 / v if v and abs(v) != 1 else None),
    "half": _changed(lambda v: v / 2 if v else None),
    "squared": _if(lambda k: f"{k}^2" if INTEGER.fullmatch(k) and k not in ("0", "1", "-1") else None),
    "a digit less": _if(_digit_cut),
    "another last digit": _if(_last_digit),
    "two digits": _rounded(2),
    "three digits": _rounded(3),
    "ends swapped": _if(_swapped),
    "bracket changed": _if(_bracket),
    "one missing": _if(_without_one),
    "one more": _if(lambda k: f"{k}, 1789" if LIST.fullmatch(k) else None),
    "union cut": _if(lambda k: re.split(r"\\cup", k)[0] if "\\cup" in k else None),
    "other choice": _if(lambda k: f"({chr((ord(m[1]) - 64) % 8 + 65)})" if (m := CHOICE.fullmatch(k)) else None),
    "other variable": _if(lambda k: re.sub(r"(?<![\\A-Za-z{])[xtnkm](?![A-Za-z])", "w", k) if re.search(r"(?<![\\A-Za-z{])[xtnkm](?![A-Za-z])", k) and "=" not in k and "text" not in k and "mbox" not in k and "box" not in k else None),
    "transposed": _if(_transposed),
    "other power of ten": _if(lambda k: re.sub(r"e(-?)(\d+)", lambda m: f"e{m[1]}{int(m[2]) + 1}", k) if re.fullmatch(r"-?[\d.]+e-?\d+", k) else None),
    "other base": _if(lambda k: f"{m[1]}_{{{int(m[2]) % 9 + 2}}}" if (m := BASED.fullmatch(k)) and int(m[2]) % 9 + 2 != int(m[2]) else None),
    "other unit": _if(lambda k: f"{m[1]}\\text{{ {'weeks' if m[2] != 'weeks' else 'km'}}}" if (m := QUANTITY.fullmatch(k)) else None),
    "letter dropped": _if(lambda k: k[:-1].rstrip() if re.fullmatch(r".*[\d) ][a-z]", k) and "\\" not in k[-3:] else None),
    "letter added": _if(lambda k: f"{k}t" if INTEGER.fullmatch(k) and k != "0" else None),
    "not equal": _if(lambda k: f"\\ne {k}" if is_number(k) else None),
    "at least": _if(lambda k: f"\\ge {k}" if is_number(k) else None),
    "less than": _if(lambda k: f"x < {k}" if is_number(k) else None),
    "root added": _if(lambda k: f"{k}\\sqrt{{3}}" if INTEGER.fullmatch(k) and k != "0" else None),
    "word shuffled": _if(lambda k: f"\\text{{{m[1][::-1]}}}" if (m := re.fullmatch(r"\\text\{([A-Za-z]{2,})\}", k)) and m[1] != m[1][::-1] else None),
}  # fmt: skip

HEDGED: dict[str, Form] = {
    "k or w": _if(lambda k: f"{k} \\text{{ or }} {_other(k)}" if "," not in k else None),
    "w or k": _if(lambda k: f"{_other(k)} \\text{{ or }} {k}" if "," not in k else None),
    "w, k": _if(lambda k: f"{_other(k)}, {k}" if "," not in k else None),
    "(or w)": _if(lambda k: f"{k} \\text{{ (or {_other(k)})}}"),
    "plus minus": _if(lambda k: f"\\pm {k}" if is_number(k) and _value(k) else None),
    "k then w": lambda k, q, s: f"\\boxed{{{k}}}. No: \\boxed{{{_other(k)}}}",
    "two boxes, or": lambda k, q, s: f"$\\boxed{{{_other(k)}}}$ or $\\boxed{{{k}}}$",
    "two boxes, comma": lambda k, q, s: f"\\boxed{{{_other(k)}}}, \\boxed{{{k}}}",
    "w = k": _if(lambda k: f"{_other(k)} = {k}" if is_number(k) else None),
    "x + 3 = k": _if(lambda k: f"x + 3 = {k}" if is_number(k) else None),
    "2x = k": _if(lambda k: f"2x = {k}" if is_number(k) else None),
    "text = k": _if(lambda k: f"\\text{{anything}} = {k}" if is_number(k) else None),
    "0 to 100": lambda k, q, s: box(", ".join(map(str, range(101)))) if INTEGER.fullmatch(k) else None,
    "a set of all": lambda k, q, s: box("\\{" + ", ".join(map(str, range(101))) + "\\}") if INTEGER.fullmatch(k) else None,
    "one of": lambda k, q, s: f"The answer is one of {', '.join(map(str, range(30)))}, {k}." if INTEGER.fullmatch(k) else None,
    "the answer is w or k": lambda k, q, s: f"The answer is {_other(k)} or {k}." if is_number(k) else None,
    "not k": lambda k, q, s: f"The answer is not ${k}$.",
    "taken back": lambda k, q, s: f"So \\boxed{{{k}}}. Wait, that is wrong: I forgot the factor.",
    "another one after it": lambda k, q, s: f"\\boxed{{{k}}} was my guess, but the answer is ${_other(k)}$." if is_number(k) else None,
}  # fmt: skip


def _cut_solution(key: str, question: str, solution: str) -> str | None:
    """All but the last step, without a box and without the mark."""
    text = solution.split("####")[0] if "####" in solution else solution
    if re.search(r"\\(?:framebox|fbox)", text):
        return None
    if "\\boxed" in text:
        before = text[: text.index("\\boxed")]
        return before.rsplit(".", 1)[0][-3000:] + "." if "." in before else None
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:-1]) if len(lines) > 1 else None


UNSTATED: dict[str, Form] = {
    "not closed": lambda k, q, s: f"So it is $\\boxed{{{k}",
    "right, then not closed": lambda k, q, s: f"So \\boxed{{{k}}}, or rather \\boxed{{",
    "empty box": lambda k, q, s: "\\boxed{}",
    "nothing": lambda k, q, s: "",
    "the question": lambda k, q, s: q,
    "work before its end": _cut_solution,
    "a fraction of it": lambda k, q, s: f"The answer is $\\frac{{1}}{{{k}}}$." if re.fullmatch(r"\d+", k) and k != "1" else None,
    "a power": lambda k, q, s: f"The answer is $2^{{{k}}}$." if re.fullmatch(r"\d+", k) else None,
    "a root": lambda k, q, s: f"The answer is $\\sqrt{{{k}}}$." if re.fullmatch(r"\d+", k) and k not in "01" else None,
    "a point": lambda k, q, s: f"The answer is $(1, {k})$." if re.fullmatch(r"\d+", k) else None,
    "as shown in step": lambda k, q, s: f"The answer is $\\frac{{7}}{{11}}$, as shown in step {k}." if re.fullmatch(r"\d+", k) else None,
    "by step": lambda k, q, s: f"The answer is 7919, by step {k}" if re.fullmatch(r"\d+", k) and k != "7919" else None,
    "a step begun": lambda k, q, s: f"Step 1: read the problem. Step {k}" if re.fullmatch(r"\d+", k) else None,
    "while thinking": lambda k, q, s: f"<think>I would say the answer is {k}. Let me see",
    "only in thoughts": lambda k, q, s: f"<think>The answer is \\boxed{{{k}}}.</think>\nI do not know.",
}  # fmt: skip


def _last_formula(key: str, question: str, solution: str) -> str | None:
    formulas = re.findall(r"\$([^$]+)\$|\\\[(.+?)\\\]", question, re.DOTALL)
    last = "".join(formulas[-1]).strip().rstrip(".,;?") if formulas else ""
    own = re.sub(r"\s|\\left|\\right|[dt](?=frac)", "", key)
    return (
        box(last)
        if last and re.sub(r"\s|\\left|\\right|[dt](?=frac)", "", last) != own and not _is_answer(last, key)
        else None
    )


def _is_answer(text: str, key: str) -> bool:
    """A number that stands in the question and is the answer is right, wherever it was read."""
    value = _value(text.strip())
    return value is not None and value == _value(key)


COPIED: dict[str, Form] = {"the question's last formula": _last_formula}
