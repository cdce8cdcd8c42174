"""What is written around an expression: its unit, its currency, its degrees.

``$5``, ``5\\text{ cm}^2``, ``9.8 m/s^2``, ``4\\,\\Omega``, ``100^\\circ\\text{C}``, ``12 dogs``.
"""

from __future__ import annotations

import re

from megaent.answers.tokens import FUNCTIONS, GREEK, Unreadable
from megaent.answers.units import is_known, read_unit

_TEXT_END = re.compile(
    r"\s*\\text\s*\{([^{}]*)\}\s*(\^\s*(?:\{\s*[23]\s*\}|[23]))?\s*(?:/\s*\\text\s*\{([^{}]*)\}(\^\s*\{?[23]\}?)?)?\s*$"
)
_WORDS_END = re.compile(
    r"(?<=[\d)}\]!])(\s*)(?<![\\A-Za-z])"
    r"([A-Za-z][A-Za-z.'\- /]*[A-Za-z.]|[A-Za-z]{2})\s*(\^\s*\{?[23]\}?)?\s*$"
)
_DEGREE_END = re.compile(r"\s*\\deg\s*(?:\\text\s*\{\s*)?([CF]?)\s*\}?\s*$")
_OHM_END = re.compile(r"(?<=\d)\s*([kM]?)\s*\\Omega\s*$")
_COMPOUND_END = re.compile(
    r"(?<=\d)\s+([A-Za-z]{1,3}(?:\s*\^\s*\{?-?\d\}?)?(?:\s*/\s*[A-Za-z]{1,3}(?:\s*\^\s*\{?\d\}?)?)+)\s*$"
)
_CURRENCY = re.compile(r"^(-?)\s*(?:([€£¥₹])|(Rs)\.?\s|\\(pounds|euro)(?![A-Za-z]))\s*|\s*([€£¥₹¢])$")
_MONEY = re.compile(r"^(-?)\s*(?:\\\$|\\text\s*\{\s*\\?\$\s*\})\s*|\s*(?:\\\$)$")
_MONEY_OF = {
    "€": "euro",
    "euro": "euro",
    "£": "£",
    "pounds": "£",
    "¥": "yen",
    "₹": "rupee",
    "Rs": "rupee",
    "¢": "cent",
}
_OF_ANGLE = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_HEDGE = re.compile(r"\d|\b(?:or|not|maybe|either|if|unless|possibly)\b", re.IGNORECASE)


def without_unit(text: str) -> tuple[str, str]:
    """(the expression, its unit as written)."""
    unit = ""
    if found := _CURRENCY.search(text):
        sign = next(filter(None, found.groups()[1:]))
        text, unit = _CURRENCY.sub(r"\1", text, count=1), _MONEY_OF[sign]
    if _MONEY.search(text):
        text, unit = _MONEY.sub(r"\1", text, count=1), "dollar"
    if (found := _DEGREE_END.search(text)) and not _OF_ANGLE.search(text):
        return text[: found.start()], "deg" + found.group(1)
    if found := _TEXT_END.search(text):
        words = found.group(1) + _exponent(found.group(2))
        if found.group(3):
            words += "/" + found.group(3) + _exponent(found.group(4))
        if _HEDGE.search(re.sub(r"\^\s*\{?-?\d\}?", "", words)):
            raise Unreadable("words that are no unit")
        before, more = without_unit(text[: found.start()]) if found.start() else ("", "")
        return before, _of_money(words, unit) if unit else f"{more} {words}".strip()
    if found := _OHM_END.search(text):
        return text[: found.start()], found.group(1) + "ohm"
    if (found := _COMPOUND_END.search(text)) and is_known(found.group(1)):
        return text[: found.start(1)], found.group(1)
    if (found := _WORDS_END.search(text)) and _is_unit(found.group(2), is_apart=bool(found.group(1))):
        return text[: found.start(1)], found.group(2) + _exponent(found.group(3))
    return text, unit


def _of_money(words: str, unit: str) -> str:
    """``\\$3\\text{ million}`` are three million dollars, ``\\$3\\text{ dollars}`` are three."""
    said = read_unit(words)
    if said.count == 1:
        return unit
    return words if said.dimension else f"{words} {unit}"


def _is_unit(words: str, *, is_apart: bool) -> bool:
    """Words after a number are a unit when they are one that is known, or plainly words."""
    runs = re.findall(r"[A-Za-z]+", words)
    if any(run in FUNCTIONS | GREEK | {"sqrt", "pi", "infty"} and run != "min" for run in runs):
        return False
    if any(_HEDGE.search(run) for run in runs):
        raise Unreadable("words that are no unit")
    if all(len(run) == 1 for run in runs):
        return False
    return is_known(words) or (
        is_apart and any(len(run) > 2 and re.search("[aeiouy]", run.lower()) for run in runs)
    )


def _exponent(text: str | None) -> str:
    return "^" + re.sub(r"\D", "", text) if text else ""
