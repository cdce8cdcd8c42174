"""Pictures of a few runs beside each other: their titles, and the numbers folded below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from megaent.report.page import folded

_ROWS = 12
"""Of a table under a picture."""


def prefix(name: str, runs: Mapping[str, object]) -> str:
    return f"{name}: " if len(runs) > 1 else ""


def some(values: Sequence) -> list:
    if len(values) <= _ROWS:
        return list(values)
    return [values[round(index * (len(values) - 1) / (_ROWS - 1))] for index in range(_ROWS)]


def figure(title: str, svg: str, numbers: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}{folded('Numbers', numbers)}</figure>"
