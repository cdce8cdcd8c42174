"""The functions that an answer may name, from ``factorial`` to ``arctan``, each within bounds."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial, gcd, lcm

from megaent.answers.number import (
    LARGEST_EXPONENT,
    TooLarge,
    Value,
    context,
    divide,
    is_zero,
    power,
    real,
    rounded_power,
    same,
)
from megaent.answers.tokens import Unreadable


def call(name: str, values: list[Value]) -> Value:
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


def roughly(name: str, values: list[Value]) -> Value:
    """60 digits of a factorial or a binomial coefficient of large numbers, or of a root."""
    if name == "root":
        return rounded_power(values[0], divide(Fraction(1), values[1]))
    if name not in ("factorial", "binom") or not all(0 <= value <= _LARGEST_WHOLE for value in values):
        raise Unreadable(f"{name} has no value here")
    return context.factorial(values[0]) if name == "factorial" else context.binomial(*values)


_LARGEST_WHOLE = 10**9
_ELEMENTARY = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "arcsin": "asin",
    "arccos": "acos", "arctan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "coth": "coth",
    "exp": "exp",
}  # fmt: skip


def _elementary(name: str, value: Value) -> Value:
    argument = real(value)
    if not abs(argument) < LARGEST_EXPONENT:  # type: ignore[operator]
        raise TooLarge
    try:
        return getattr(context, _ELEMENTARY[name])(argument)
    except ZeroDivisionError as error:
        raise Unreadable(f"{name} has a pole there") from error


def _logarithm(name: str, value: Value, base: Value | None = None) -> Value:
    if is_zero(value) or (base is not None and (is_zero(base) or same(base, Fraction(1)))):
        raise Unreadable("a logarithm of zero or to base 1")
    logarithm = context.log(real(value))
    if name == "lg":
        base = Fraction(10)
    return logarithm if base is None else logarithm / context.log(real(base))


def _root(value: Value, degree: Value) -> Value:
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 1 <= degree <= 64:
        return power(value, divide(Fraction(1), degree))
    if isinstance(value, Fraction) and value < 0 and degree % 2:
        return -_root(-value, degree)  # type: ignore[operator]
    return power(value, 1 / degree)


def _rounded(name: str, value: Value) -> Fraction:
    if isinstance(value, Fraction):
        return Fraction(value.__floor__() if name == "floor" else value.__ceil__())
    if isinstance(value, context.mpc) or not abs(value) < 10**30:  # type: ignore[operator]
        raise Unreadable(f"{name} of a number that is not real")
    return Fraction(int(getattr(context, name)(value)))


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
