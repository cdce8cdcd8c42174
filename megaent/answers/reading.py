"""What an answer can be: a quantity, a word, a list, an interval, a matrix, a relation between such."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.answers.tokens import Tree


@dataclass(frozen=True, slots=True)
class Quantity:
    """An expression, with what is written around it."""

    tree: Tree
    unit: str = ""  # as written: "cm^2", "dogs"
    is_percent: bool = False
    base: int | None = None  # that an index names; ``tree`` then holds the value, ``digits`` the digits
    digits: str = ""


@dataclass(frozen=True, slots=True)
class Word:
    text: str  # without case, punctuation and markup


@dataclass(frozen=True, slots=True)
class Items:
    """Several answers: without brackets ("") or in ``{...}`` in any order, in other brackets in their own."""

    opening: str  # "", "{", "(", "["
    closing: str
    items: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Union:
    parts: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Reading, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """``x = 5``, ``3 < x \\le 4``: one sign between each two sides; the first side may be missing."""

    sides: tuple[Reading | None, ...]
    signs: tuple[str, ...]  # of = < > \\le \\ge \\ne \\approx \\in


Reading = Quantity | Word | Items | Union | Matrix | Relation
EMPTY = Word("no solution")
REALS = Items("(", ")", (Quantity(("neg", ("const", "inf"))), Quantity(("const", "inf"))))
