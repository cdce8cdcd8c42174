"""A method's options, read off its source: a misspelt option is refused before torch is imported."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Optional

_TYPES: dict[str, object] = {
    "bool": bool,
    "float": float,
    "int": int,
    "str": str,
    "float | None": Optional[float],  # noqa: UP045 - OmegaConf reads Optional
    "int | None": Optional[int],  # noqa: UP045
    "str | None": Optional[str],  # noqa: UP045
}


class Option(NamedTuple):
    name: str
    type: object
    default: bool | float | str | None


@cache
def options_of(method: str) -> tuple[Option, ...]:
    """The options of a method of the registry, in the order of its signature."""
    spec = find_spec(f"megaent.methods.{method}")
    assert spec is not None, f"{method} is in the registry and has no module"
    assert spec.origin is not None, f"{method} has no source"
    return tuple(read_options(Path(spec.origin).read_text(encoding="utf-8"), method))


def read_options(source: str, method: str) -> list[Option]:
    """The keyword options of the function ``method``. Raises TypeError for what is no option."""
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    (function,) = [node for node in functions if node.name == method]
    given = function.args
    if given.posonlyargs or given.args or given.vararg or given.kwarg or None in given.kw_defaults:
        raise TypeError(f"a method takes keyword options with defaults and nothing else; {method} does not")
    return [_option(method, *pair) for pair in zip(given.kwonlyargs, given.kw_defaults, strict=True)]


def _option(method: str, argument: ast.arg, default: ast.expr | None) -> Option:
    kind = ast.unparse(argument.annotation) if argument.annotation is not None else "none"
    if kind not in _TYPES:
        raise TypeError(f"{method}.{argument.arg} must have one of the types {', '.join(_TYPES)}, got {kind}")
    assert default is not None
    return Option(argument.arg, _TYPES[kind], ast.literal_eval(default))
