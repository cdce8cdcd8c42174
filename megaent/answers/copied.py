"""Whether an answer is work that the question asked for, taken over from it as it stands.

``\\sqrt{242}`` equals ``11\\sqrt{2}``, and so does the question "Simplify $\\sqrt{242}$". An answer is
copied when it stands in the question, is not written as the key is, and leaves something to be done: a
plain number, a reduced fraction or a list of these is an answer wherever else it stands. Only a number
that is all of one of the question's formulas is copied too, where the key has another form: 0.75 for
``\\frac{3}{4}``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import gcd

from megaent.answers.notation import plain
from megaent.answers.read import read
from megaent.answers.reading import Items, Quantity, Reading, Relation, Union, Word
from megaent.answers.tokens import Tree

_MATH = re.compile(r"(?<!\\)\$+(.+?)(?<!\\)\$+|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_FRAGMENT = 3  # characters; fewer say nothing about where they come from


def is_copied(answer: str, *, key: str, question: str) -> bool:
    """``answer`` is equal to ``key``; was that to be found out, or did it stand in the question?"""
    if not question:
        return False
    written = _bare(answer)
    if written == _bare(key) or len(written) < _FRAGMENT or read(answer) == read(key):
        return False
    formulas, running = _formulas(question)
    if _is_finished(read(answer)):
        # 0.75 where the key is a fraction: only if it is what the question shows as its formula.
        return written in formulas and _asks_for_another_form(read(answer), read(key))
    return any(_holds(formula, written) for formula in formulas) or _holds(running, written)


@lru_cache(maxsize=1024)
def _formulas(question: str) -> tuple[tuple[str, ...], str]:
    """The question's formulas, and all of it, as ``plain`` text."""
    formulas = tuple(_bare("".join(parts)) for parts in _MATH.findall(question))
    return formulas, _bare(question)


def _bare(text: str) -> str:
    return re.sub(r"\\text|[()\[\]]", "", plain(text)).replace("\\cdot", "*").replace("\\times", "*")


def _holds(formula: str, written: str) -> bool:
    """Does it stand in the formula, not in the middle of a number or word?"""
    place = formula.find(written)
    while place >= 0:
        before, after = formula[place - 1 : place], formula[place + len(written) :][:1]
        if not (_joined(before, written[0]) or _joined(written[-1], after)):
            return True
        place = formula.find(written, place + 1)
    return False


def _joined(left: str, right: str) -> bool:
    return bool(re.fullmatch(r"[\d.]{2}", left + right))


def _asks_for_another_form(answer: Reading | None, key: Reading | None) -> bool:
    """A decimal for a fraction or the other way round."""
    if not isinstance(answer, Quantity) or not isinstance(key, Quantity):
        return False
    return _kind(answer.tree) != _kind(key.tree) or answer.is_percent != key.is_percent


def _kind(tree: Tree) -> str:
    return _kind(tree[1]) if tree[0] == "neg" else tree[0]


def _is_finished(reading: Reading | None) -> bool:
    if isinstance(reading, Word):
        return True
    if isinstance(reading, Quantity):
        return not reading.base and _is_plain(reading.tree)
    if isinstance(reading, Items):
        return all(_is_finished(item) for item in reading.items)
    if isinstance(reading, Union):
        return all(_is_finished(part) for part in reading.parts)
    if isinstance(reading, Relation):
        return all(_is_finished(side) for side in reading.sides)
    return False


def _is_plain(tree: Tree) -> bool:
    """A number, a letter, a fraction in lowest terms."""
    if tree[0] == "neg":
        return _is_plain(tree[1])
    if tree[0] in ("num", "sym", "const"):
        return True
    if tree[0] == "div" and tree[1][0] == tree[2][0] == "num":
        above, below = tree[1][1], tree[2][1]
        return above.denominator == below.denominator == 1 and gcd(int(above), int(below)) == 1
    if tree[0] == "add" and tree[2][0] == "div":
        return tree[1][0] == "num" and _is_plain(tree[2])  # 1 4/5
    return False
