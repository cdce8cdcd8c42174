"""What may be handed to reasoning-gym's verifiers, and verdicts where theirs cannot be used.

Nine of its verifiers hand the answer to Python's ``eval``, or to sympy's parser, which does. They get it only
if it is built of letters, digits and signs that can neither call nor reach anything.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

LONGEST = 20_000  # characters of an answer
_LONGEST_EXPRESSION = 1000

_LIST = re.compile(r"[\w\s\[\]'\",-]*")  # neither a call nor an attribute can be written
_EXPRESSION = re.compile(r"(?:\d+(?:\.\d+)?|[A-Za-z]+|[-+*/^()\s])*")
_WORDS = ("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "exp", "log", "ln", "sqrt", "pi")
_LISTS = {"string_insertion", "spiral_matrix", "binary_matrix", "n_queens"}
_EXPRESSIONS = {"simple_integration", "intermediate_integration", "polynomial_multiplication", "countdown"}
EVALUATED = _LISTS | _EXPRESSIONS | {"puzzle24"}

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def is_safe(task: str, answer: str) -> bool:
    """Whether the task's verifier can do nothing with the answer but judge it."""
    if task in _LISTS:
        return _LIST.fullmatch(answer) is not None
    if task in EVALUATED:
        names = re.findall(r"[A-Za-z]+", answer)
        is_known = all(len(name) == 1 or name in _WORDS for name in names)
        return len(answer) <= _LONGEST_EXPRESSION and is_known and _EXPRESSION.fullmatch(answer) is not None
    return True


def own_verdict(task: str, answer: str, item: Mapping[str, Any]) -> bool | None:
    """Ours, for three tasks whose verifiers pay full marks for nothing; None for all others."""
    if task == "game_of_life_halting":
        return answer.strip() == item["answer"]
    if task == "coin_flip":
        return _is_near(answer, item["answer"])
    if task == "puzzle24":
        return _makes_24(answer, item["metadata"]["numbers"])
    return None


def _is_near(answer: str, probability: str) -> bool:
    """Within a ten-thousandth of it; theirs pays full marks for "0" where the answer begins with "0."."""
    try:
        return abs(Fraction(answer.strip()) / Fraction(probability) - 1) <= Fraction(1, 10_000)
    except (ValueError, ZeroDivisionError):
        return False


def _makes_24(answer: str, numbers: list[int]) -> bool:
    """Exactly, with each number once."""
    try:
        tree = ast.parse(answer.strip(), mode="eval").body
        used = [int(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]  # type: ignore[arg-type]
        return sorted(used) == sorted(numbers) and _value(tree) == 24
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError):
        return False


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(number)):
            return Fraction(number)
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _OPERATIONS:
            return _OPERATIONS[type(sign)](_value(left), _value(right))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
    raise ValueError(f"{type(node).__name__} is no arithmetic")
