"""Whether an answer says the same as its key.

Equal means equal; see ``quantities`` for decimals. A unit, a percent sign, a base or the name in ``x =
5`` may be left out; where both have one they must agree. A list is equal in any order; what stands in
brackets in the same order, within the same brackets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from megaent.answers import value
from megaent.answers.notation import plain, rewrite
from megaent.answers.quantities import same_quantity
from megaent.answers.read import SIGNS, read, split
from megaent.answers.reading import Items, Matrix, Quantity, Reading, Relation, Union
from megaent.answers.relations import (
    coordinates,
    difference,
    interval,
    is_choice,
    named,
    names_differ,
    parts,
    ratio_value,
    union_parts,
)
from megaent.answers.tokens import Unreadable
from megaent.answers.units import read_unit

_SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # but those between digits
_WHOLE = re.compile(r"\s*-?\d{1,18}\s*", re.ASCII)


def equal(key: str, answer: str, *, question: str = "") -> bool | None:
    """True or False; None where another reader must decide.

    The question tells what an answer may leave to it: whether ``5\\%`` says 5 and whether ``52_8`` says 52.
    """
    if _SPACES.sub("", key) == _SPACES.sub("", answer):
        return True
    if _WHOLE.fullmatch(key) and _WHOLE.fullmatch(answer):
        return int(key) == int(answer)
    ours, theirs = read(key), read(answer)
    if ours is None or theirs is None:
        return _equal_text(key, answer, ours, theirs)
    try:
        return _Comparison(question).same(ours, theirs)
    except value.TooLarge:
        # What cannot be written down is no answer, unless the key is of that kind.
        return False if _is_ordinary(ours) or _differ(ours, theirs) else None
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return None if _is_symbolic(key) and _is_symbolic(answer) else False


def canonical(answer: str) -> str:
    """The same text for answers that are one number in two notations, or one text in two layouts.

    Made without the key. What only mathematics can tell equal, such as ``(x+1)^2``, keeps its own form.
    """
    if _WHOLE.fullmatch(answer):
        return str(int(answer))
    found = read(answer)
    if isinstance(found, Quantity) and not found.base and (number := value.rational(found.tree)) is not None:
        unit = read_unit(found.unit)
        words = "" if unit.is_none or found.unit == "dollar" else found.unit
        return f"{number}{'%' if found.is_percent else ''}{words}"
    return plain(answer)


def _equal_text(key: str, answer: str, ours: Reading | None, theirs: Reading | None) -> bool | None:
    if plain(key) == plain(answer):
        return True
    if ours is not None and not isinstance(ours, Quantity | Relation):
        return False
    return None if _is_symbolic(key) and _is_symbolic(answer) else False


@lru_cache(maxsize=16384)
def _is_symbolic(text: str) -> bool:
    """Mathematics alone: no words, no hedges, no equation, no unit. Only of such another reader is asked."""
    text = rewrite(text)
    if re.search(r"\\text|\\pm|\\ne|\\approx|%|\\\$|[?;]|\d\s*_", text) or len(list(split(text, SIGNS))) > 1:
        return False
    return not re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+", " ", text))


def _is_ordinary(reading: Reading) -> bool:
    try:
        return not isinstance(reading, Quantity) or value.evaluate(reading.tree, 0) is not None
    except (ArithmeticError, ValueError):
        return False


def _differ(key: Reading, answer: Reading) -> bool:
    if not isinstance(key, Quantity) or not isinstance(answer, Quantity) or key.unit or answer.unit:
        return False
    return value.differ(key.tree, answer.tree)


class _Comparison:
    def __init__(self, question: str) -> None:
        self._question = question

    def same(self, key: Reading, answer: Reading) -> bool | None:
        if isinstance(answer, Relation) or isinstance(key, Relation):
            return self._relations(key, answer)
        if is_choice(key) or is_choice(answer):
            return self._sequence(parts(key), parts(answer), ordered=False)
        if isinstance(key, Union) or isinstance(answer, Union):
            return self._unions(key, answer)
        if isinstance(key, Items) and isinstance(answer, Items):
            return self._items(key, answer)
        if (ratio := ratio_value(key, answer)) is not None:
            return same_quantity(*ratio, self._question)
        if isinstance(key, Quantity) and isinstance(answer, Quantity):
            return same_quantity(key, answer, self._question)
        if isinstance(key, Matrix) and isinstance(answer, Items):
            answer = _as_matrix(answer) or answer
        if isinstance(key, Matrix) and isinstance(answer, Matrix):
            return self._matrices(key, answer)
        if isinstance(key, Items) and key.opening in ("", "{") and len(key.items) == 1:
            return self.same(key.items[0], answer)
        if isinstance(answer, Items) and answer.opening == "{" and len(answer.items) == 1:
            return self.same(key, answer.items[0])
        return key == answer

    # ------------------------------------------------------------ several parts

    def _items(self, key: Items, answer: Items) -> bool | None:
        if key.opening == answer.opening == "{":
            # A set holds each item once, however often it is written.
            ours, theirs = dict.fromkeys(key.items), dict.fromkeys(answer.items)
            return self._sequence(list(ours), list(theirs), ordered=False)
        if key.opening in ("", "{"):
            # A list may be bracketed, in its order; the items of a set may not be those of a point.
            ordered = answer.opening not in ("", "{")
            if ordered and (key.opening == "{" or answer.opening != "("):
                return False
            return self._sequence(key.items, answer.items, ordered=ordered)
        if key.opening == "(" and answer.opening == "" and (values := coordinates(answer)) is not None:
            return self._sequence(key.items, values, ordered=True)
        if (key.opening, key.closing) != (answer.opening, answer.closing):
            return False
        return self._sequence(key.items, answer.items, ordered=True)

    def _unions(self, key: Reading, answer: Reading) -> bool | None:
        ours, theirs = union_parts(key), union_parts(answer)
        if ours is None or theirs is None:
            return False
        return self._sequence(ours, theirs, ordered=False)

    def _matrices(self, key: Matrix, answer: Matrix) -> bool | None:
        if [len(row) for row in key.rows] != [len(row) for row in answer.rows]:
            return False
        cells = [cell for row in key.rows for cell in row]
        return self._sequence(cells, [cell for row in answer.rows for cell in row], ordered=True)

    def _sequence(self, key: Sequence[Reading], answer: Sequence[Reading], *, ordered: bool) -> bool | None:
        if len(key) != len(answer):
            return False
        if ordered:
            return _all(self.same(a, b) for a, b in zip(key, answer, strict=True))
        left = list(answer)
        for ours in key:
            for place, theirs in enumerate(left):
                if self.same(ours, theirs):
                    del left[place]
                    break
            else:
                return False
        return True

    # ------------------------------------------------------------ relations

    def _relations(self, key: Reading, answer: Reading) -> bool | None:
        ours, theirs = named(key), named(answer)
        if ours is not None and theirs is not None:
            # A name may be left out, and y = 2x is not f = 2x. Of 6 * 7 = 42 every side counts.
            if ours[0] and theirs[0] and ours[0] != theirs[0]:
                return self._equations(key, answer)
            target = ours[1][-1]
            found = _all(self.same(target, side) for side in (*ours[1][:-1], *theirs[1]))
            return found or (self._equations(key, answer) if found is False else None)
        if (
            isinstance(key, Relation)
            and isinstance(answer, Relation)
            and key.signs != ("=",)
            and key == answer
        ):
            return True
        intervals = interval(key), interval(answer)
        if all(intervals) and not names_differ(key, answer):
            return self.same(*intervals)  # type: ignore[arg-type]
        return self._equations(key, answer)

    def _equations(self, key: Reading, answer: Reading) -> bool | None:
        """``2x+5y=7`` and ``y=(7-2x)/5``: the sides' difference is the same, but for a factor."""
        if not isinstance(key, Relation) or not isinstance(answer, Relation):
            return False
        if key.signs != ("=",) or answer.signs != ("=",):
            return False
        ours, theirs = difference(key), difference(answer)
        if ours is None or theirs is None:
            return key == answer
        if value.symbols(ours) != value.symbols(theirs):
            return False
        if len(value.symbols(ours)) < 2 and (not value.symbols(ours) or named(key)[0]):  # type: ignore[index]
            # 2x = 10 does not say what x is.
            return False
        return value.proportional(ours, theirs)


def _as_matrix(answer: Items) -> Matrix | None:
    """``[[1, 2], [3, 4]]``: rows in brackets."""
    rows = [
        row.items for row in answer.items if isinstance(row, Items) and row.opening == answer.opening == "["
    ]
    return Matrix(tuple(rows)) if len(rows) == len(answer.items) else None


def _all(verdicts) -> bool | None:
    found: bool | None = True
    for verdict in verdicts:
        if verdict is False:
            return False
        found = None if verdict is None else found
    return found
