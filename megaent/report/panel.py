"""What one picture of a run shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One chart: curves of one unit, drawn where they were reported."""

    title: str
    unit: str
    curves: tuple[tuple[str, str], ...]  # metric, label
    interval: tuple[str, str] | None = None  # metrics of the ends, of the first curve
