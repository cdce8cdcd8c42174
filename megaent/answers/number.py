"""Numbers of an answer: exact fractions, and 60 digits of all else, none too large to write down."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import isqrt
from typing import Any

import mpmath

from megaent.answers.tokens import Unreadable

Value = Any  # Fraction, or a number of ``context``, whose library has no types
_DIGITS = 60
_SAME = 40  # digits in which equal values agree
_MOST_BITS = 20_000  # of an exact number
LARGEST_EXPONENT = 10**6  # bits, of a number that is not exact
LARGEST_ROUNDED = 10**12  # bits, of a number of which 60 digits are told
context = mpmath.MPContext()
context.dps = _DIGITS


class TooLarge(ArithmeticError):
    """A value beyond what an answer can be; no ordinary number equals it."""


def constant(name: str) -> Value:
    return {"pi": +context.pi, "e": +context.e, "i": context.mpc(0, 1), "inf": context.inf}[name]


def real(value: Value) -> Value:
    if isinstance(value, Fraction):
        return context.mpf(value.numerator) / value.denominator
    return value


def exact_or(operation: Callable) -> Callable[[Value, Value], Value]:
    def apply(left: Value, right: Value) -> Value:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            return operation(left, right)
        return operation(real(left), real(right))

    return apply


def divide(left: Value, right: Value) -> Value:
    if is_zero(right):
        raise Unreadable("a division by zero")
    return exact_or(lambda a, b: a / b)(left, right)


def power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _whole_power(base, int(exponent))
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator <= 64:
        root = _exact_root(base, exponent.denominator)
        if root is not None:
            return _whole_power(root, exponent.numerator)
    if is_zero(base):
        raise Unreadable("a power of zero")
    base, exponent = real(base), real(exponent)
    if abs(exponent) * (abs(context.log(abs(base))) + 1) > LARGEST_EXPONENT:
        raise TooLarge
    return base**exponent


def rounded_power(base: Value, exponent: Value) -> Value:
    """60 digits of a power of any size that ``LARGEST_ROUNDED`` allows."""
    if is_zero(base):
        return power(base, exponent)
    if abs(exponent) * (abs(context.log(abs(base))) + 1) > LARGEST_ROUNDED:
        raise TooLarge
    return context.power(base, exponent)


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
    if is_zero(base):
        raise Unreadable("a power of zero")
    if abs(exponent) * (abs(context.log(abs(base))) + 1) > LARGEST_EXPONENT:
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
        root = int(context.nint(context.root(value, degree))) if value else 0
    return root if root**degree == value else None


OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": exact_or(lambda a, b: a + b),
    "mul": exact_or(lambda a, b: a * b),
    "div": divide,
    "pow": power,
    "neg": lambda a: -a,  # type: ignore[operator]
}


def checked(value: Value) -> Value:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MOST_BITS:
            raise TooLarge
        return value
    if context.isnan(value):
        raise Unreadable("no number")
    if isinstance(value, context.mpc) and abs(value.imag) < abs(value) * context.mpf(10) ** -(_DIGITS - 5):
        return value.real
    return value


def is_zero(value: Value) -> bool:
    if isinstance(value, Fraction):
        return value == 0
    return bool(abs(value) < context.mpf(10) ** -(_DIGITS - 5))  # type: ignore[operator]


def same(left: Value, right: Value) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    a, b = real(left), real(right)
    if context.isinf(a) or context.isinf(b):
        return bool(a == b)
    distance = abs(a - b)  # type: ignore[operator]
    if left == 0 or right == 0:
        # What rounding leaves of a difference is about 1e-60; what is far smaller was small from the start.
        return bool(distance == 0 or context.mpf(10) ** -75 < distance < context.mpf(10) ** -50)
    return bool(distance <= context.mpf(10) ** -_SAME * max(abs(a), abs(b)))  # type: ignore[type-var]
