"""Values that leave a program's process: numbers, texts, and what is made of them, in JSON, never pickled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def plain(value: object) -> object:
    """``value`` in JSON, so that ``value_of`` gives it back: numbers, texts, and what is made of them.

    Raises TypeError for all else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, complex):
        return {"complex": [repr(value.real), repr(value.imag)]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [plain(entry) for entry in value]}
    if isinstance(value, Mapping):
        return {"dict": [[plain(key), plain(entry)] for key, entry in value.items()]}
    raise TypeError(f"{type(value).__name__} is no plain value")


def value_of(stored: object) -> object:
    """What ``plain`` was given. Raises ValueError, TypeError or KeyError for what it cannot have made."""
    if stored is None or isinstance(stored, bool | int | str):
        return stored
    if not isinstance(stored, dict) or len(stored) != 1:
        raise ValueError("one kind and its content were expected")
    ((kind, content),) = stored.items()
    return _READERS[kind](content)


_READERS: dict[str, Callable[[Any], object]] = {
    "float": float,
    "complex": lambda parts: complex(*map(float, parts)),
    "bytes": bytes.fromhex,
    "list": lambda entries: [value_of(entry) for entry in entries],
    "tuple": lambda entries: tuple(value_of(entry) for entry in entries),
    "set": lambda entries: {value_of(entry) for entry in entries},
    "frozenset": lambda entries: frozenset(value_of(entry) for entry in entries),
    "dict": lambda pairs: {value_of(key): value_of(entry) for key, entry in pairs},
}
