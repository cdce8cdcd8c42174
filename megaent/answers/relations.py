"""Shapes that say the same: ``x = 5`` and 5, ``3 < x \\le 4`` and ``(3,4]``, ``1 \\pm 2`` and two numbers."""

from __future__ import annotations

import re

from megaent.answers.read import expand
from megaent.answers.reading import Items, Quantity, Reading, Relation, Union
from megaent.answers.tokens import Tree

_INFINITY: Tree = ("const", "inf")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


def ratio_value(key: Reading, answer: Reading) -> tuple[Quantity, Quantity] | None:
    """``3:5`` beside ``\\frac{3}{5}``, as two numbers."""
    if isinstance(key, Quantity) and isinstance(answer, Items):
        found = ratio_value(answer, key)
        return None if found is None else (key, found[0])
    if (
        not isinstance(key, Items)
        or not isinstance(answer, Quantity)
        or key.opening != ":"
        or len(key.items) != 2
    ):
        return None
    first, second = key.items
    if (
        not isinstance(first, Quantity)
        or not isinstance(second, Quantity)
        or answer.unit
        or answer.is_percent
    ):
        return None
    return Quantity(("div", first.tree, second.tree)), answer


def is_choice(reading: Reading) -> bool:
    """``3 \\pm 2\\sqrt{2}``: two answers."""
    return isinstance(reading, Quantity) and len(parts(reading)) > 1


def parts(reading: Reading) -> tuple[Reading, ...]:
    if isinstance(reading, Items) and reading.opening in ("", "{"):
        return reading.items
    return tuple(expand([reading]))


def named(reading: Reading) -> tuple[str, tuple[Reading, ...]] | None:
    """(name, what is said of it): ("x", (5,)) for ``x = 5``, ("", (5,)) for 5; all sides of ``2 * 3 = 6``."""
    if not isinstance(reading, Relation):
        return "", (reading,)
    if (
        any(sign not in ("=", "\\approx", "\\in", "\\equiv") for sign in reading.signs)
        or None in reading.sides
    ):
        return None
    sides = [side for side in reading.sides if side is not None]
    names = [name for name in map(_name, sides) if name]
    values = tuple(side for side in sides if not _name(side))
    if not values:
        return (names[0], (sides[-1],)) if len(sides) == 2 else None
    if "\\approx" in reading.signs[1:] or (reading.signs[0] == "\\approx" and not names):
        values = values[:1]
    return (
        ("=".join(names), values)
        if len(names) <= 1 or reading.signs.count("=") == len(reading.signs)
        else None
    )


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
    if tree[:2] == ("call", "abs"):  # the length |AB|
        inner = _letters(tree[2])
        return f"|{inner}|" if len(inner) > 1 and inner.isupper() else ""
    if tree[0] != "mul":
        return ""
    left, right = _letters(tree[1]), _letters(tree[2])
    return left + right if left.isupper() and right.isupper() else ""


def coordinates(reading: Items) -> tuple[Reading, ...] | None:
    """The values of ``x = 1, y = 2``: letters in the order of the alphabet, each said once."""
    names, values = [], []
    for item in reading.items:
        said = named(item) if isinstance(item, Relation) and item.signs == ("=",) else None
        if said is None or len(said[1]) != 1 or not re.fullmatch(r"[a-z]", said[0]):
            return None
        names.append(said[0])
        values.append(said[1][0])
    return tuple(values) if names == sorted(set(names)) else None


def difference(relation: Relation) -> Tree | None:
    left, right = relation.sides
    if not isinstance(left, Quantity) or not isinstance(right, Quantity) or left.unit or right.unit:
        return None
    return ("add", left.tree, ("neg", right.tree))


def names_differ(key: Reading, answer: Reading) -> bool:
    ours, theirs = _variable(key), _variable(answer)
    return bool(ours and theirs and ours != theirs)


def _variable(reading: Reading) -> str:
    if not isinstance(reading, Relation):
        return ""
    names = [name for name in map(_name, reading.sides) if name]
    return names[0] if names else ""


def interval(reading: Reading) -> Reading | None:
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
    found = [interval(item) for item in answer.items]
    return tuple(part for part in found if part) if len(found) == len(answer.items) and all(found) else None


def union_parts(reading: Reading) -> tuple[Reading, ...] | None:
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
