"""Whether two quantities are equal: their numbers, with what is written around them.

Equal means equal: exactly, but for a key that is a decimal, which may differ by rounding in its last
place and at most by 1e-6 of its size.
"""

from __future__ import annotations

import re
from fractions import Fraction

from megaent.answers import value
from megaent.answers.reading import Quantity
from megaent.answers.tokens import Tree, Unreadable
from megaent.answers.tree import parse
from megaent.answers.units import is_known, read_unit

TOLERANCE = Fraction(1, 10**6)  # relative, of decimals
_ASKS_FOR_COUNTS = re.compile(
    r"\b(?:in|how many|number of)\s+(?:hundred|thousand|million|billion|trillion)s?\b", re.IGNORECASE
)


def same_quantity(key: Quantity, answer: Quantity, question: str) -> bool | None:
    """``question`` tells whether percent and a base may be left to it."""
    found = _same(key, answer, question)
    return True if found is False and _same_letter(key, answer) else found


def _same(key: Quantity, answer: Quantity, question: str) -> bool | None:
    if key.base or answer.base:
        return _bases(key, answer, question)
    if key.is_percent or answer.is_percent:
        return _percents(key, answer, question)
    scale = _scale(key, answer)
    if scale is None:
        return False
    found = _same_number(key.tree, _times(answer.tree, scale * _counts(key, answer, question)))
    return _same_but_for_letter(key, answer) if found is False else found


def _bases(key: Quantity, answer: Quantity, question: str) -> bool | None:
    if key.base and answer.base:
        return key.base == answer.base and key.digits == answer.digits
    based, other = (key, answer) if key.base else (answer, key)
    number = value.rational(other.tree)
    if number is None or other.unit or other.is_percent:
        return False
    if key.base or "base" in question:
        # The question says which base.
        return number.denominator == 1 and str(number) == based.digits
    return _same_number(key.tree, answer.tree)


def _percents(key: Quantity, answer: Quantity, question: str) -> bool | None:
    if (key.unit and not key.is_percent) or (answer.unit and not answer.is_percent):
        return False
    if key.is_percent == answer.is_percent:
        return _same_number(key.tree, answer.tree)
    hundredth = Fraction(1, 100)
    if key.is_percent:
        return _same_number(key.tree, answer.tree) or _same_number(
            key.tree, _times(answer.tree, Fraction(100))
        )
    if _same_number(key.tree, _times(answer.tree, hundredth)):
        return True
    return bool(re.search(r"%|per\s?cent", question)) and _same_number(key.tree, answer.tree)


def _same_number(key: Tree, answer: Tree) -> bool | None:
    if key == answer:
        return True
    found = value.equal(key, answer)
    return True if found is False and value.near(key, answer, relative=TOLERANCE) else found


def _same_but_for_letter(key: Quantity, answer: Quantity) -> bool | None:
    """``5 m`` and ``5\\text{ m}``: a letter on one side is the unit on the other."""
    if bool(key.unit) == bool(answer.unit):
        return False
    plain_one = answer if key.unit else key
    if "/" in key.unit + answer.unit and value.symbols(plain_one.tree):
        return _same_number(_in_letters(key), _in_letters(answer))
    if plain_one.tree[0] != "mul" or plain_one.tree[2][0] != "sym":
        return False
    if plain_one.tree[2][1] == (key.unit or answer.unit).strip():
        return _same_number(plain_one.tree[1], (key if key.unit else answer).tree)
    measured = Quantity(plain_one.tree[1], unit=plain_one.tree[2][1])
    if not is_known(measured.unit) or value.symbols(measured.tree):
        return False
    ours, theirs = (key, measured) if key.unit else (measured, answer)
    scale = _scale(ours, theirs)
    return scale is not None and _same_number(ours.tree, _times(theirs.tree, scale))


def _in_letters(quantity: Quantity) -> Tree:
    """``5 m/s`` as 5 times m over s."""
    if not quantity.unit:
        return quantity.tree
    try:
        return ("mul", quantity.tree, parse(quantity.unit))
    except Unreadable:
        return quantity.tree


def _same_letter(key: Quantity, answer: Quantity) -> bool:
    """A choice may be written small: ``(c)`` for C."""
    letters = [
        tree[1] if tree[0] == "sym" else "e" if tree == ("const", "e") else ""
        for tree in (key.tree, answer.tree)
    ]
    return len(letters[0]) == 1 and letters[0] in "ABCDEFGH" and letters[0].lower() == letters[1]


def _times(tree: Tree, factor: Fraction) -> Tree:
    if factor == 1:
        return tree
    if tree[0] == "num":
        return ("num", tree[1] * factor, None if tree[2] is None else tree[2] * factor)
    return ("mul", ("num", factor, None), tree)


def _counts(key: Quantity, answer: Quantity, question: str) -> Fraction:
    """``5 million`` is 5000000; where the question asks for millions it is 5 as well."""
    ours, theirs = read_unit(key.unit).count, read_unit(answer.unit).count
    is_asked = _ASKS_FOR_COUNTS.search(question) and 1 in (ours, theirs)
    return Fraction(1) if is_asked else theirs / ours


def _scale(key: Quantity, answer: Quantity) -> Fraction | None:
    """By what the answer's number is multiplied to count in the key's unit; None for units that differ."""
    ours, theirs = read_unit(key.unit), read_unit(answer.unit)
    if key.unit and ours.is_none and ours.count == 1 and theirs.dimension:
        return None  # "units" are of no kind
    if ours.is_none or theirs.is_none or ours._replace(count=theirs.count) == theirs:
        return Fraction(1)
    if ours.words or theirs.words or ours.dimension != theirs.dimension:
        return None
    return theirs.size / ours.size
