"""The exact value of a tree, and whether two trees have the same one.

Rational operations on rational numbers are exact (``Fraction``); roots, powers, logarithms and the like are
taken to 60 digits with mpmath. Letters stand for fixed numbers, so two expressions are equal when they agree
at several such choices: polynomials and quotients exactly, all else to 40 digits, which no two expressions of
an answer's size share by chance. Nothing here can be made to run long: sizes are bounded before each step.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import lru_cache

from megaent.answers.functions import call, roughly
from megaent.answers.number import (
    OPERATIONS,
    TooLarge,
    Value,
    checked,
    constant,
    context,
    divide,
    is_zero,
    real,
    rounded_power,
    same,
)
from megaent.answers.tokens import Tree, Unreadable

_MOST_WRITTEN = 4_000  # bits, of a number that is shown
_NUM_POINTS = 3  # the last has negative letters too
_MORE_POINTS = 8  # of whole numbers, for what is meant for these
_OF_WHOLE_NUMBERS = frozenset({"floor", "ceil", "max", "min", "factorial", "binom", "gcd", "lcm"})


def equal(left: Tree, right: Tree) -> bool | None:
    """True or False; None where the values do not tell.

    Raises TooLarge for numbers that cannot be written down and Unreadable for operations without a value.
    """
    if symbols(left) != symbols(right):
        return False
    points = _points(left, right)
    verdicts = {point: _same_at(point, left, right) for point in points}
    known = [verdict for verdict in verdicts.values() if verdict is not None]
    if len(known) < min(2, len(points)):
        raise Unreadable("no value at most points")
    if all(known):
        return True
    # sqrt(x^2) and x agree where letters are positive: which is meant is not for us to say.
    return None if points == range(_NUM_POINTS) and verdicts[0] and verdicts[1] else False


def _same_at(point: int, left: Tree, right: Tree) -> bool | None:
    """None where one of them has no value at that point."""
    try:
        return same(evaluate(left, point), evaluate(right, point))
    except Unreadable:
        return None


def rational(tree: Tree) -> Fraction | None:
    """The value of a tree without letters, when it is rational and small enough to be written down."""
    try:
        value = None if symbols(tree) else evaluate(tree, 0)
    except (TooLarge, Unreadable, ArithmeticError, ValueError):
        return None
    if (
        not isinstance(value, Fraction)
        or max(abs(value.numerator), value.denominator).bit_length() > _MOST_WRITTEN
    ):
        return None
    return value


def differ(left: Tree, right: Tree) -> bool:
    """Are two numbers that cannot be written down known to differ, by their first 60 digits?

    ``1/2004!`` and ``1/2006!`` do. False where they agree so far, or have no such digits.
    """
    try:
        return not symbols(left) and not symbols(right) and not same(rounded(left), rounded(right))
    except (Unreadable, ArithmeticError, ValueError):
        return False


def rounded(tree: Tree) -> Value:
    """60 digits of the value, whatever its size, within ``LARGEST_ROUNDED``. Raises Unreadable, TooLarge."""
    if tree[0] not in OPERATIONS and tree[0] != "call":
        return real(evaluate(tree, 0))
    if tree[0] == "call":
        try:
            return real(evaluate(tree, 0))
        except TooLarge:
            return roughly(tree[1], [rounded(part) for part in tree[2:]])
    values = [rounded(part) for part in tree[1:]]
    return rounded_power(*values) if tree[0] == "pow" else OPERATIONS[tree[0]](*values)


def proportional(left: Tree, right: Tree) -> bool:
    """Is one the other times a constant other than 0? Two such are 0 in the same places."""
    ratios = []
    for point in range(_NUM_POINTS):
        above, below = evaluate(left, point), evaluate(right, point)
        if is_zero(above) or is_zero(below):
            return False
        ratios.append(divide(above, below))
    return all(same(ratios[0], ratio) for ratio in ratios[1:])


def near(key: Tree, answer: Tree, *, relative: Fraction) -> bool:
    """Is ``answer`` the decimal ``key`` but for rounding in the last place, and within ``relative`` of it?"""
    if key[0] == "neg" and answer[0] == "neg":
        return near(key[1], answer[1], relative=relative)
    if key[0] != "num" or key[2] is None or symbols(answer):
        return False
    theirs = evaluate(answer, 0)
    if isinstance(theirs, context.mpc) or theirs in (context.inf, context.ninf):
        return False
    place = max(key[2], answer[2]) if answer[0] == "num" and answer[2] is not None else key[2]
    distance = abs(real(key[1]) - real(theirs))
    return bool(
        distance <= real(place) / 2 and distance <= real(relative) * max(abs(real(key[1])), abs(real(theirs)))
    )


@lru_cache(maxsize=16384)
def symbols(tree: Tree) -> frozenset[str]:
    if tree[0] == "sym":
        return frozenset([tree[1]])
    return frozenset().union(*(symbols(part) for part in tree[1:] if isinstance(part, tuple)))


@lru_cache(maxsize=16384)
def evaluate(tree: Tree, point: int) -> Value:
    """The value where letters stand for the numbers of that ``point``."""
    kind = tree[0]
    if kind == "num":
        return checked(tree[1])
    if kind == "sym":
        return _letter(tree[1], point)
    if kind == "const":
        return constant(tree[1])
    if kind == "call":
        return checked(call(tree[1], [evaluate(part, point) for part in tree[2:]]))
    if kind not in OPERATIONS:
        raise Unreadable("a choice of signs has no one value")
    values = [evaluate(part, point) for part in tree[1:]]
    return checked(OPERATIONS[kind](*values))


def _points(left: Tree, right: Tree) -> range:
    if not symbols(left):
        return range(1)
    if (_calls(left) | _calls(right)) & _OF_WHOLE_NUMBERS:
        return range(_NUM_POINTS, _NUM_POINTS + _MORE_POINTS)
    return range(_NUM_POINTS)


def _calls(tree: Tree) -> frozenset[str]:
    own = frozenset([tree[1]]) if tree[0] == "call" else frozenset()
    return own.union(*(_calls(part) for part in tree[1:] if isinstance(part, tuple)))


@lru_cache(maxsize=4096)
def _letter(name: str, point: int) -> Fraction:
    digest = hashlib.sha256(f"{name} {point}".encode()).digest()
    if point >= _NUM_POINTS:
        return Fraction(int.from_bytes(digest[:2], "big") % 300 + 3)
    value = Fraction(int.from_bytes(digest[:2], "big") % 997 + 3, 331)
    return -value if point == _NUM_POINTS - 1 and digest[2] % 2 else value
