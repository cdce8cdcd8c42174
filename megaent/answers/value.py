"""The exact value of a tree, and whether two trees have the same one.

Rational operations on rational numbers are exact (``Fraction``); roots, powers, logarithms and the like are
taken to 60 digits with mpmath. Letters stand for fixed numbers, so two expressions are equal when they agree at
several such choices: polynomials and quotients exactly, everything else to 40 digits, which no two expressions
of an answer's size share by chance. Nothing here can be made to run long: sizes are bounded before each step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from math import comb, factorial, gcd, isqrt, lcm

import mpmath

from megaent.answers.tree import Tree, Unreadable

Value = object  # Fraction, or a number of ``_context``

_DIGITS = 60
_SAME = 40  # digits in which equal values agree
_MOST_BITS = 20_000  # of an exact number
_MOST_WRITTEN = 4_000  # bits, of a number that is shown
_LARGEST_EXPONENT = 10**6  # bits, of a number that is not exact
_NUM_POINTS = 3  # the last has negative letters too
_MORE_POINTS = 8  # of whole numbers, for what is meant for these
_OF_WHOLE_NUMBERS = frozenset({"floor", "ceil", "max", "min", "factorial", "binom", "gcd", "lcm"})

_context = mpmath.MPContext()
_context.dps = _DIGITS


class TooLarge(ArithmeticError):
    """A value beyond what an answer can be; no ordinary number equals it."""


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
        return _same(evaluate(left, point), evaluate(right, point))
    except Unreadable:
        return None


def rational(tree: Tree) -> Fraction | None:
    """The value of a tree without letters, when it is rational and small enough to be written down."""
    try:
        value = None if symbols(tree) else evaluate(tree, 0)
    except (TooLarge, Unreadable, ArithmeticError, ValueError):
        return None
    if not isinstance(value, Fraction) or max(abs(value.numerator), value.denominator).bit_length() > _MOST_WRITTEN:
        return None
    return value


def proportional(left: Tree, right: Tree) -> bool:
    """Is one the other times a constant other than 0? Two such are 0 in the same places."""
    ratios = []
    for point in range(_NUM_POINTS):
        above, below = evaluate(left, point), evaluate(right, point)
        if _is_zero(above) or _is_zero(below):
            return False
        ratios.append(_divide(above, below))
    return all(_same(ratios[0], ratio) for ratio in ratios[1:])


def near(key: Tree, answer: Tree, *, relative: Fraction) -> bool:
    """Is ``answer`` the decimal ``key`` but for rounding in the last place, and within ``relative`` of it?"""
    if key[0] == "neg" and answer[0] == "neg":
        return near(key[1], answer[1], relative=relative)
    if key[0] != "num" or key[2] is None or symbols(answer):
        return False
    theirs = evaluate(answer, 0)
    if isinstance(theirs, _context.mpc) or theirs in (_context.inf, _context.ninf):
        return False
    place = max(key[2], answer[2]) if answer[0] == "num" and answer[2] is not None else key[2]
    distance = abs(_real(key[1]) - _real(theirs))
    return bool(distance <= _real(place) / 2 and distance <= _real(relative) * max(abs(_real(key[1])), abs(_real(theirs))))


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
        return _checked(tree[1])
    if kind == "sym":
        return _letter(tree[1], point)
    if kind == "const":
        return _constant(tree[1])
    if kind == "call":
        return _checked(_call(tree[1], [evaluate(part, point) for part in tree[2:]]))
    if kind not in _OPERATIONS:
        raise Unreadable("a choice of signs has no one value")
    values = [evaluate(part, point) for part in tree[1:]]
    return _checked(_OPERATIONS[kind](*values))


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


def _constant(name: str) -> Value:
    return {"pi": +_context.pi, "e": +_context.e, "i": _context.mpc(0, 1), "inf": _context.inf}[name]


# ---------------------------------------------------------------- operations


def _real(value: Value) -> object:
    if isinstance(value, Fraction):
        return _context.mpf(value.numerator) / value.denominator
    return value


def _exact_or(operation: Callable) -> Callable[[Value, Value], Value]:
    def apply(left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return operation(left, right)
        return operation(_real(left), _real(right))

    return apply


def _divide(left: Value, right: Value) -> Value:
    if _is_zero(right):
        raise Unreadable("a division by zero")
    return _exact_or(lambda a, b: a / b)(left, right)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _whole_power(base, int(exponent))
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator <= 64 and (root := _exact_root(base, exponent.denominator)) is not None:
            return _whole_power(root, exponent.numerator)
    if _is_zero(base):
        raise Unreadable("a power of zero")
    base, exponent = _real(base), _real(exponent)
    if abs(exponent) * (abs(_context.log(abs(base))) + 1) > _LARGEST_EXPONENT:
        raise TooLarge
    return base**exponent


def _whole_power(base: Value, exponent: int) -> Value:
    if isinstance(base, Fraction):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if base in (0, 1, -1):
            if base == 0 and exponent <= 0:
                raise Unreadable("a power of zero")
            return base ** (exponent % 2 + 2)
        if bits * abs(exponent) > _MOST_BITS * 10:
            raise TooLarge
        return base**exponent
    if _is_zero(base):
        raise Unreadable("a power of zero")
    if abs(exponent) * (abs(_context.log(abs(base))) + 1) > _LARGEST_EXPONENT:
        raise TooLarge
    return base**exponent


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    if value < 0:
        return None
    above, below = _whole_root(value.numerator, degree), _whole_root(value.denominator, degree)
    return None if above is None or below is None else Fraction(above, below)


def _whole_root(value: int, degree: int) -> int | None:
    if degree == 2:
        root = isqrt(value)
    elif value.bit_length() > 1000:
        return None
    else:
        root = int(_context.nint(_context.root(value, degree))) if value else 0
    return root if root**degree == value else None


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _exact_or(lambda a, b: a + b),
    "mul": _exact_or(lambda a, b: a * b),
    "div": _divide,
    "pow": _power,
    "neg": lambda a: -a,  # type: ignore[operator]
}


# ---------------------------------------------------------------- functions


def _call(name: str, values: list[Value]) -> Value:
    if name in _WHOLE:
        return Fraction(_WHOLE[name](*(_whole(value) for value in values)))
    if name == "root":
        return _root(*values)
    if name in ("floor", "ceil"):
        return _rounded(name, values[0])
    if name in ("max", "min"):
        if not all(isinstance(value, Fraction) for value in values):
            raise Unreadable(f"{name} of what is not rational")
        return {"max": max, "min": min}[name](values)  # type: ignore[type-var]
    if name == "abs":
        return abs(values[0])  # type: ignore[arg-type]
    if name in ("log", "ln", "lg"):
        return _logarithm(name, *values)
    if name in _ELEMENTARY:
        return _elementary(name, values[0])
    raise Unreadable(f"{name} has no value here")


_ELEMENTARY = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "arcsin": "asin",
    "arccos": "acos", "arctan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "coth": "coth",
    "exp": "exp",
}  # fmt: skip


def _elementary(name: str, value: Value) -> Value:
    argument = _real(value)
    if not abs(argument) < _LARGEST_EXPONENT:  # type: ignore[operator]
        raise TooLarge
    try:
        return getattr(_context, _ELEMENTARY[name])(argument)
    except ZeroDivisionError as error:
        raise Unreadable(f"{name} has a pole there") from error


def _logarithm(name: str, value: Value, base: Value | None = None) -> Value:
    if _is_zero(value) or base is not None and (_is_zero(base) or _same(base, Fraction(1))):
        raise Unreadable("a logarithm of zero or to base 1")
    logarithm = _context.log(_real(value))
    if name == "lg":
        base = Fraction(10)
    return logarithm if base is None else logarithm / _context.log(_real(base))


def _root(value: Value, degree: Value) -> Value:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 <= degree <= 64:
        return _power(value, _divide(Fraction(1), degree))
    if isinstance(value, Fraction) and value < 0 and degree % 2:
        return -_root(-value, degree)  # type: ignore[operator]
    return _power(value, 1 / degree)


def _rounded(name: str, value: Value) -> Fraction:
    if isinstance(value, Fraction):
        return Fraction(value.__floor__() if name == "floor" else value.__ceil__())
    if isinstance(value, _context.mpc) or not abs(value) < 10**30:  # type: ignore[operator]
        raise Unreadable(f"{name} of a number that is not real")
    return Fraction(int(getattr(_context, name)(value)))


def _whole(value: Value) -> int:
    if not isinstance(value, Fraction) or value.denominator != 1 or abs(value) > 2000:
        raise TooLarge if isinstance(value, Fraction) and abs(value) > 2000 else Unreadable("not whole")
    return int(value)


def _factorial(number: int) -> int:
    if number < 0:
        raise Unreadable("a factorial below zero")
    return factorial(number)


def _binomial(above: int, below: int) -> int:
    if above < 0 or below < 0:
        raise Unreadable("a binomial coefficient below zero")
    return comb(above, below)


_WHOLE: dict[str, Callable[..., int]] = {"factorial": _factorial, "binom": _binomial, "gcd": gcd, "lcm": lcm}


# ---------------------------------------------------------------- comparison


def _checked(value: Value) -> Value:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
            raise TooLarge
        return value
    if _context.isnan(value):
        raise Unreadable("no number")
    if isinstance(value, _context.mpc) and abs(value.imag) < abs(value) * _context.mpf(10) ** -(_DIGITS - 5):
        return value.real
    return value


def _is_zero(value: Value) -> bool:
    if isinstance(value, Fraction):
        return value == 0
    return bool(abs(value) < _context.mpf(10) ** -(_DIGITS - 5))  # type: ignore[operator]


def _same(left: Value, right: Value) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    a, b = _real(left), _real(right)
    if _context.isinf(a) or _context.isinf(b):
        return bool(a == b)
    distance = abs(a - b)  # type: ignore[operator]
    if left == 0 or right == 0:
        # What rounding leaves of a difference is about 1e-60; what is far smaller was small from the start.
        return bool(distance == 0 or _context.mpf(10) ** -75 < distance < _context.mpf(10) ** -50)
    return bool(distance <= _context.mpf(10) ** -_SAME * max(abs(a), abs(b)))  # type: ignore[type-var]
