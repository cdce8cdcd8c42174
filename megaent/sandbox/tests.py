"""What a program is tried with, and what it should answer, read apart: a program is shown the first alone.

Three forms are read, as data sets have them:

    {"inputs": ["1 2\\n"], "outputs": ["3\\n"]}                      standard input, standard output
    {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}         a function, also a method of class Solution
    ["assert add(1, 2) == 3", ...]                                 assertions whose one side is a constant

also as a list of {"input", "output"}, with "fn_name" or without, and as JSON in a text.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megaent.sandbox.values import plain, value_of

_LONGEST = 1 << 24  # characters of a key


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeTests:
    """Inputs with outputs, or calls (Python expressions) with values; the other is empty."""

    inputs: tuple[tuple[str, str], ...] = ()
    calls: tuple[tuple[str, object], ...] = ()
    takes_tuples: bool = False  # for lists: the expected values were written in JSON, which has no tuples


def read_tests(value: object) -> str:
    """The key of a row, as ``stored_tests`` reads it. Raises ValueError, saying what was expected."""
    try:
        tests = _read(value)
    except (SyntaxError, RecursionError, MemoryError, TypeError, KeyError) as error:
        raise ValueError(f"the tests cannot be read: {type(error).__name__}: {error}"[:300]) from error
    if not tests.inputs and not tests.calls:
        raise ValueError("no test was found; expected inputs with outputs, or assertions")
    calls = [[call, plain(expected)] for call, expected in tests.calls]
    return json.dumps({"inputs": tests.inputs, "calls": calls, "takes_tuples": tests.takes_tuples})


def stored_tests(key: str) -> CodeTests:
    """What ``read_tests`` has read."""
    stored = json.loads(key)
    return CodeTests(
        inputs=tuple((given, expected) for given, expected in stored["inputs"]),
        calls=tuple((call, value_of(expected)) for call, expected in stored["calls"]),
        takes_tuples=stored["takes_tuples"],
    )


def _read(value: object) -> CodeTests:
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, Mapping):
        return _columns(value)
    if isinstance(value, Sequence) and value and all(isinstance(entry, str) for entry in value):
        return CodeTests(calls=tuple(test for entry in value for test in _assertions(entry)))
    if isinstance(value, Sequence) and value and all(isinstance(entry, Mapping) for entry in value):
        return _columns(_in_columns(value))
    raise ValueError(f"expected inputs with outputs, or assertions, got {value!r:.80}")


def _from_text(text: str) -> object:
    if len(text) > _LONGEST:
        raise ValueError(f"the tests have {len(text)} characters; {_LONGEST} are read at most")
    try:
        return json.loads(text)
    except ValueError:
        return [text]


def _in_columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    names = {entry.get("fn_name") for entry in entries}
    if len(names) > 1:
        raise ValueError(f"the tests of one program must name one function, got {sorted(map(str, names))}")
    (name,) = names
    inputs, outputs = [entry["input"] for entry in entries], [entry["output"] for entry in entries]
    if name and all(isinstance(given, str) for given in inputs):  # a line of JSON for each argument
        inputs = [[json.loads(line) for line in given.splitlines()] for given in inputs]
        outputs = [json.loads(expected) if isinstance(expected, str) else expected for expected in outputs]
    return {"fn_name": name, "inputs": inputs, "outputs": outputs}


def _columns(value: Mapping[str, Any]) -> CodeTests:
    inputs, outputs, name = value["inputs"], value["outputs"], value.get("fn_name")
    if len(inputs) != len(outputs):
        raise ValueError(f"{len(inputs)} inputs came with {len(outputs)} outputs")
    if not name:
        return CodeTests(inputs=tuple(zip(map(_text, inputs), map(_text, outputs), strict=True)))
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"fn_name must be a name, got {name!r:.80}")
    calls = (_call(name, given) for given in inputs)
    return CodeTests(calls=tuple(zip(calls, outputs, strict=True)), takes_tuples=True)


def _text(value: object) -> str:
    """A text, or lines of it."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"input and output must be text, got {value!r:.80}; fn_name names a function")
    return value


def _call(name: str, arguments: object) -> str:
    if not isinstance(arguments, list):
        raise ValueError(f"the arguments of {name} must be a list, got {arguments!r:.80}")
    given = ", ".join(map(repr, arguments))
    return f"(Solution().{name} if 'Solution' in globals() else {name})({given})"


# ---------------------------------------------------------------- assertions


def _assertions(text: str) -> list[tuple[str, object]]:
    statements = ast.parse(text.strip()).body
    return [_assertion(statement) for statement in statements]


def _assertion(statement: ast.stmt) -> tuple[str, object]:
    if isinstance(statement, ast.Assert):
        match statement.test:
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                return _sides(statement, left, right)
            case ast.UnaryOp(op=ast.Not(), operand=call) if _has_call(call):
                return f"bool({ast.unparse(call)})", False
            case ast.Call() as call if not isinstance(call.func, ast.Attribute):
                return f"bool({ast.unparse(call)})", True
    raise ValueError(_inseparable(statement))


def _sides(statement: ast.stmt, left: ast.expr, right: ast.expr) -> tuple[str, object]:
    for call, constant in ((left, right), (right, left)):
        if _has_call(call) and not _has_call(constant):
            return ast.unparse(call), ast.literal_eval(constant)
    raise ValueError(_inseparable(statement))


def _has_call(node: ast.expr) -> bool:
    return any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _inseparable(statement: ast.stmt) -> str:
    return (
        "an assertion must compare a call with a constant, so that the program is not shown its answer, "
        f"got {ast.unparse(statement)!r:.120}"
    )
