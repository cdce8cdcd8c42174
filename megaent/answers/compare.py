"""Whether an answer says the same as its key.

Equal means equal: exactly, but for a key that is a decimal, which may differ by rounding in its last place and at
most by 1e-6 of its size. A unit, a percent sign, a base or the name in ``x = 5`` may be left out; where both
have one they must agree. A list is equal in any order; what stands in brackets in the same order, within the
same brackets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from megaent.answers import value
from megaent.answers.notation import plain, rewrite
from megaent.answers.read import SIGNS, Items, Matrix, Quantity, Reading, Relation, Union, expand, read, split
from megaent.answers.tree import Tree, Unreadable
from megaent.answers.units import is_known, read_unit

TOLERANCE = Fraction(1, 10**6)  # relative, of decimals
_SPACES = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # but those between digits
_WHOLE = re.compile(r"\s*-?\d{1,18}\s*", re.ASCII)
_INFINITY: Tree = ("const", "inf")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


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
        return False if _is_ordinary(ours) else None
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


class _Comparison:
    def __init__(self, question: str) -> None:
        self._question = question

    def same(self, key: Reading, answer: Reading) -> bool | None:
        if isinstance(answer, Relation) or isinstance(key, Relation):
            return self._relations(key, answer)
        if _is_choice(key) or _is_choice(answer):
            return self._sequence(_parts(key), _parts(answer), ordered=False)
        if isinstance(key, Union) or isinstance(answer, Union):
            return self._unions(key, answer)
        if isinstance(key, Items) and isinstance(answer, Items):
            return self._items(key, answer)
        if (ratio := _ratio_value(key, answer)) is not None:
            return self._quantities(*ratio)
        if isinstance(key, Quantity) and isinstance(answer, Quantity):
            return self._quantities(key, answer) or _same_letter(key, answer)
        if isinstance(key, Matrix) and isinstance(answer, Matrix):
            return self._matrices(key, answer)
        if isinstance(key, Items) and key.opening in ("", "{") and len(key.items) == 1:
            return self.same(key.items[0], answer)
        if isinstance(answer, Items) and answer.opening == "{" and len(answer.items) == 1:
            return self.same(key, answer.items[0])
        return key == answer

    # ------------------------------------------------------------ several parts

    def _items(self, key: Items, answer: Items) -> bool | None:
        if key.opening in ("", "{"):
            # A list may be bracketed, in its order; the items of a set may not be those of a point.
            ordered = answer.opening not in ("", "{")
            if ordered and (key.opening == "{" or answer.opening != "("):
                return False
            return self._sequence(key.items, answer.items, ordered=ordered)
        if (key.opening, key.closing) != (answer.opening, answer.closing):
            return False
        return self._sequence(key.items, answer.items, ordered=True)

    def _unions(self, key: Reading, answer: Reading) -> bool | None:
        ours, theirs = _union_parts(key), _union_parts(answer)
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
        ours, theirs = _named(key), _named(answer)
        if ours is not None and theirs is not None:
            # A name may be left out, and y = 2x is not f = 2x. Of 6 * 7 = 42 every side counts.
            if ours[0] and theirs[0] and ours[0] != theirs[0]:
                return self._equations(key, answer)
            target = ours[1][-1]
            found = _all(self.same(target, side) for side in (*ours[1][:-1], *theirs[1]))
            return found or (self._equations(key, answer) if found is False else None)
        if isinstance(key, Relation) and isinstance(answer, Relation) and key.signs != ("=",) and key == answer:
            return True
        intervals = _interval(key), _interval(answer)
        if all(intervals) and not _names_differ(key, answer):
            return self.same(*intervals)  # type: ignore[arg-type]
        return self._equations(key, answer)

    def _equations(self, key: Reading, answer: Reading) -> bool | None:
        """``2x+5y-7=0`` and ``y=-\\frac{2}{5}x+\\frac{7}{5}``: the difference of the sides is the same, but for a factor."""
        if not isinstance(key, Relation) or not isinstance(answer, Relation):
            return False
        if key.signs != ("=",) or answer.signs != ("=",):
            return False
        ours, theirs = _difference(key), _difference(answer)
        if ours is None or theirs is None:
            return key == answer
        if value.symbols(ours) != value.symbols(theirs):
            return False
        if len(value.symbols(ours)) < 2:
            # 2x = 10 does not say what x is.
            return False
        return value.proportional(ours, theirs)

    # ------------------------------------------------------------ quantities

    def _quantities(self, key: Quantity, answer: Quantity) -> bool | None:
        if key.base or answer.base:
            return self._bases(key, answer)
        if key.is_percent or answer.is_percent:
            return self._percents(key, answer)
        scale = _scale(key, answer)
        if scale is None:
            return False
        found = _same_number(key.tree, _times(answer.tree, scale))
        return _same_but_for_letter(key, answer) if found is False else found

    def _bases(self, key: Quantity, answer: Quantity) -> bool | None:
        if key.base and answer.base:
            return key.base == answer.base and key.digits == answer.digits
        based, other = (key, answer) if key.base else (answer, key)
        number = value.rational(other.tree)
        if number is None or other.unit or other.is_percent:
            return False
        if key.base or "base" in self._question:
            # The question says which base.
            return number.denominator == 1 and str(number) == based.digits
        return _same_number(key.tree, answer.tree)

    def _percents(self, key: Quantity, answer: Quantity) -> bool | None:
        if (key.unit and not key.is_percent) or (answer.unit and not answer.is_percent):
            return False
        if key.is_percent == answer.is_percent:
            return _same_number(key.tree, answer.tree)
        hundredth = Fraction(1, 100)
        if key.is_percent:
            return _same_number(key.tree, answer.tree) or _same_number(key.tree, _times(answer.tree, Fraction(100)))
        if _same_number(key.tree, _times(answer.tree, hundredth)):
            return True
        return bool(re.search(r"%|per\s?cent", self._question)) and _same_number(key.tree, answer.tree)


def _same_number(key: Tree, answer: Tree) -> bool | None:
    if key == answer:
        return True
    found = value.equal(key, answer)
    return True if found is False and value.near(key, answer, relative=TOLERANCE) else found


def _same_but_for_letter(key: Quantity, answer: Quantity) -> bool | None:
    """``5 m`` and ``5\\text{ m}``: a letter on one side is the unit on the other."""
    plain_one = answer if key.unit else key
    if bool(key.unit) == bool(answer.unit) or plain_one.tree[0] != "mul" or plain_one.tree[2][0] != "sym":
        return False
    if plain_one.tree[2][1] == (key.unit or answer.unit).strip():
        return _same_number(plain_one.tree[1], (key if key.unit else answer).tree)
    measured = Quantity(plain_one.tree[1], unit=plain_one.tree[2][1])
    if not is_known(measured.unit) or value.symbols(measured.tree):
        return False
    ours, theirs = (key, measured) if key.unit else (measured, answer)
    scale = _scale(ours, theirs)
    return scale is not None and _same_number(ours.tree, _times(theirs.tree, scale))


def _same_letter(key: Quantity, answer: Quantity) -> bool:
    """A choice may be written small: ``(c)`` for C."""
    letters = [tree[1] if tree[0] == "sym" else "e" if tree == ("const", "e") else "" for tree in (key.tree, answer.tree)]
    return len(letters[0]) == 1 and letters[0] in "ABCDEFGH" and letters[0].lower() == letters[1]


def _times(tree: Tree, factor: Fraction) -> Tree:
    if factor == 1:
        return tree
    if tree[0] == "num":
        return ("num", tree[1] * factor, None if tree[2] is None else tree[2] * factor)
    return ("mul", ("num", factor, None), tree)


def _scale(key: Quantity, answer: Quantity) -> Fraction | None:
    """By what the answer's number is multiplied to count in the key's unit; None for units that differ."""
    ours, theirs = read_unit(key.unit), read_unit(answer.unit)
    if key.unit and ours.is_none and theirs.dimension:
        return None  # "units" are of no kind
    if ours.is_none or theirs.is_none or ours == theirs:
        return Fraction(1)
    if ours.words or theirs.words or ours.dimension != theirs.dimension:
        return None
    return theirs.size / ours.size


# ---------------------------------------------------------------- shapes that say the same


def _all(verdicts) -> bool | None:  # noqa: ANN001
    found: bool | None = True
    for verdict in verdicts:
        if verdict is False:
            return False
        found = None if verdict is None else found
    return found


def _ratio_value(key: Reading, answer: Reading) -> tuple[Quantity, Quantity] | None:
    """``3:5`` beside ``\\frac{3}{5}``, as two numbers."""
    if isinstance(key, Quantity) and isinstance(answer, Items):
        found = _ratio_value(answer, key)
        return None if found is None else (key, found[0])
    if not isinstance(key, Items) or not isinstance(answer, Quantity) or key.opening != ":" or len(key.items) != 2:
        return None
    first, second = key.items
    if not isinstance(first, Quantity) or not isinstance(second, Quantity) or answer.unit or answer.is_percent:
        return None
    return Quantity(("div", first.tree, second.tree)), answer


def _is_choice(reading: Reading) -> bool:
    """``3 \\pm 2\\sqrt{2}``: two answers."""
    return isinstance(reading, Quantity) and len(_parts(reading)) > 1


def _parts(reading: Reading) -> tuple[Reading, ...]:
    if isinstance(reading, Items) and reading.opening in ("", "{"):
        return reading.items
    return tuple(expand([reading]))


def _named(reading: Reading) -> tuple[str, tuple[Reading, ...]] | None:
    """(name, what is said of it): ("x", (5,)) for ``x = 5``, ("", (5,)) for 5, all sides of ``6 \\cdot 7 = 42``."""
    if not isinstance(reading, Relation):
        return "", (reading,)
    if any(sign not in ("=", "\\approx", "\\in", "\\equiv") for sign in reading.signs) or None in reading.sides:
        return None
    sides = [side for side in reading.sides if side is not None]
    names = [name for name in map(_name, sides) if name]
    values = tuple(side for side in sides if not _name(side))
    if not values:
        return (names[0], (sides[-1],)) if len(sides) == 2 else None
    if "\\approx" in reading.signs[1:] or (reading.signs[0] == "\\approx" and not names):
        values = values[:1]
    return ("=".join(names), values) if len(names) <= 1 or reading.signs.count("=") == len(reading.signs) else None


def _name(reading: Reading | None) -> str:
    """What one side of an equation names: a letter, also with an index or an argument, ``AB``, ``(x, y)``."""
    if isinstance(reading, Quantity) and not reading.unit:
        return _letters(reading.tree)
    if isinstance(reading, Items) and reading.opening == "(":
        names = [_name(item) for item in reading.items]
        return f"({','.join(names)})" if all(names) else ""
    return ""


def _letters(tree: Tree) -> str:
    if tree[0] == "sym":
        return tree[1]
    if tree[0] != "mul":
        return ""
    left, right = _letters(tree[1]), _letters(tree[2])
    return left + right if left.isupper() and right.isupper() else ""


def _difference(relation: Relation) -> Tree | None:
    left, right = relation.sides
    if not isinstance(left, Quantity) or not isinstance(right, Quantity) or left.unit or right.unit:
        return None
    return ("add", left.tree, ("neg", right.tree))


def _names_differ(key: Reading, answer: Reading) -> bool:
    ours, theirs = _variable(key), _variable(answer)
    return bool(ours and theirs and ours != theirs)


def _variable(reading: Reading) -> str:
    if not isinstance(reading, Relation):
        return ""
    names = [name for name in map(_name, reading.sides) if name]
    return names[0] if names else ""


def _interval(reading: Reading) -> Reading | None:
    """``3 < x \\le 4`` as ``(3,4]``; an interval as it is; None for anything else."""
    if not isinstance(reading, Relation):
        return reading if isinstance(reading, Items | Union) else None
    if reading.signs == ("\\in",) and _name(reading.sides[0]):
        return reading.sides[1]
    sides, signs = list(reading.sides), list(reading.signs)
    if any(side is None for side in sides) or any(sign not in _FLIPPED or sign == "=" for sign in signs):
        return None
    place = next((n for n, side in enumerate(sides) if _name(side)), None)
    if place is None or len(sides) > 3 or (len(sides) == 3 and place != 1):
        return None
    low: tuple[str, Reading] = ("(", Quantity(("neg", _INFINITY)))
    high: tuple[Reading, str] = (Quantity(_INFINITY), ")")
    for n, side in enumerate(sides):
        if n == place or side is None:
            continue
        sign = signs[0] if n < place else _FLIPPED[signs[-1]]
        if sign == "\\ne":
            return Union((Items("(", ")", (low[1], side)), Items("(", ")", (side, high[0]))))
        # Here ``side sign name``.
        if sign in ("<", "\\le"):
            low = ("[" if sign == "\\le" else "(", side)
        else:
            high = (side, "]" if sign == "\\ge" else ")")
    return Items(low[0], high[1], (low[1], high[0]))


def _as_interval_union(answer: Items) -> tuple[Reading, ...] | None:
    found = [_interval(item) for item in answer.items]
    return tuple(part for part in found if part) if len(found) == len(answer.items) and all(found) else None


def _union_parts(reading: Reading) -> tuple[Reading, ...] | None:
    if isinstance(reading, Union):
        parts = reading.parts
    elif isinstance(reading, Items) and reading.opening == "":
        found = _as_interval_union(reading)
        if found is None:
            return None
        parts = found
    else:
        return (reading,)
    # {1} \cup {2} is {1, 2}.
    return tuple(parts)
