"""What a quantity is measured in: ``cm^2``, ``square centimetres``, ``miles per hour``, ``dogs``.

Units that are known have a dimension and a size, so 5 m is 500 cm and not 5 cm; of others the words count.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_KNOWN: dict[str, dict[str, str]] = {
    "length": {
        "m meter metre": "1", "km kilometer kilometre": "1000", "cm centimeter centimetre": "1/100",
        "mm millimeter millimetre": "1/1000", "nm nanometer": "1/1000000000", "in inch inche": "0.0254",
        "ft foot feet": "0.3048", "yd yard": "0.9144", "mi mile": "1609.344",
    },
    "mass": {"g gram": "1", "kg kilogram": "1000", "mg milligram": "1/1000", "lb pound": "453.59237",
             "oz ounce": "28.349523125", "ton tonne": "1000000"},
    "time": {"s sec second": "1", "min minute": "60", "h hr hour": "3600", "day": "86400", "week": "604800",
             "ms": "1/1000", "month": "2629746", "yr year": "31556952"},
    "money": {"dollar usd buck": "1", "cent ¢": "1/100"},
    "euro": {"euro eur €": "1"}, "sterling": {"£ gbp": "1"},
    "angle": {"deg degree": "1", "radian rad": "57.29577951308232"},
    "volume": {"l liter litre": "1", "ml milliliter millilitre": "1/1000", "gallon gal": "3.785411784"},
    "area": {"acre": "1", "hectare": "2.4710538146717"},
    "temperature C": {"°c degc celsiu": "1"}, "temperature F": {"°f degf fahrenheit": "1"},
    "temperature": {"kelvin": "1"},
    "energy": {"j joule": "1", "kj": "1000", "erg": "1/10000000", "ev": "1.602176634e-19"},
    "power": {"w watt": "1", "kw": "1000"}, "force": {"newton": "1"}, "voltage": {"v volt": "1"},
    "resistance": {"ohm": "1", "kohm": "1000", "mohm": "1000000"}, "yen": {"yen jpy": "1"},
    "rupee": {"rupee inr": "1"},
    "frequency": {"hz hertz": "1"}, "person": {"people person": "1"},
}  # fmt: skip
_UNITS = {
    word: (dimension, Fraction(size))
    for dimension, names in _KNOWN.items()
    for words, size in names.items()
    for word in words.split()
}
_COUNTS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_WHOLE = {
    "mph": "mile per hour",
    "kph": "km per hour",
    "km/h": "km per hour",
    "kmh": "km per hour",
    "fps": "foot per second",
}
_NOTHING = frozenset({"unit", "of", "a", "the", "in", "total", "exactly", "each", "about"})


class Unit(NamedTuple):
    dimension: tuple[tuple[str, int], ...]  # sorted; () for none
    size: Fraction
    words: str  # of what is not known, else ""
    count: Fraction = Fraction(1)  # 10^6 of "million dollars"

    @property
    def is_none(self) -> bool:
        return not self.dimension and not self.words


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit:
    """The unit that the text names; one without dimension and words for "" and "units"."""
    dimensions: Counter[str] = Counter()
    size, unknown, power, sign, count = Fraction(1), [], 1, 1, Fraction(1)
    for word, exponent in _words(text):
        if word in ("per", "/"):
            sign = -1
        elif word in _POWERS and word not in ("squared", "cubed"):
            power = _POWERS[word]
        elif known := _UNITS.get(word):
            power = int(exponent or power) * sign
            dimensions[known[0]] += power
            size *= known[1] ** power
            power = 1
        elif word in _COUNTS and sign == 1:
            count *= _COUNTS[word]
        elif word not in _NOTHING:
            unknown.append(word)
    if unknown:
        return Unit((), Fraction(1), " ".join(unknown), count)
    return Unit(tuple(sorted(item for item in dimensions.items() if item[1])), size, "", count)


def is_known(text: str) -> bool:
    """Is it made of units with a dimension (or the word "units") alone?"""
    return bool(text.strip()) and not read_unit(text).words


def _words(text: str) -> list[tuple[str, str]]:
    """(word in the singular, exponent) pairs; "" for no exponent."""
    text = text.casefold().replace("\\deg", "deg").replace("$", "dollar")
    for whole, parts in _WHOLE.items():
        text = re.sub(rf"\b{re.escape(whole)}\b", parts, text)
    text = re.sub(r"\b([a-z]+)\s+(squared|cubed)\b", lambda m: f"{m[1]}^{_POWERS[m[2]]}", text)
    text = re.sub(r"\bdeg(?:ree)?s?\s+(?=celsius|fahrenheit)", "", text)
    found = re.findall(r"([^\W\d_]+|[°¢€£/])\s*(?:\^\s*\{?(-?\d)\}?)?", text)
    return [(word if word in _UNITS or word in _POWERS else _singular(word), power) for word, power in found]


def _singular(word: str) -> str:
    return word.removesuffix("s") if len(word) > 2 else word
