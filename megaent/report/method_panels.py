"""What a run's method did, drawn from the metrics of its own pieces: one picture for each piece.

EGRC's groups that are compressed, CEEH's hard prompts and gate, LESS's segment classes, SENT's shares, a
term's coefficient: docs/metrics.md explains each. A method that is new needs no line here.
"""

from __future__ import annotations

from collections.abc import Sequence

from megaent.report.panel import Panel

OF_EVERY_RUN = frozenset(
    {
        "accuracy",
        "advantage",
        "balance",
        "clip",
        "entropy",
        "evaluate",
        "grad",
        "kept",
        "kl_to_old",
        "length",
        "memory",
        "mismatch",
        "optimizer",
        "policy_weight",
        "precision",
        "reward",
        "staleness",
        "sync",
        "time",
        "tokens",
    }
)
"""Areas of metrics that say nothing of a method's pieces."""

_COEFFICIENT = "coef"


def method_panels(metrics: Sequence[dict[str, float]]) -> list[Panel]:
    """In the order of the areas' names; a coefficient, of another unit, has a picture of its own."""
    names = sorted({name for line in metrics for name in line if "/" in name})
    areas: dict[str, list[str]] = {}
    for name in names:
        area, quantity = name.split("/", 1)
        if area not in OF_EVERY_RUN:
            areas.setdefault(area, []).append(quantity)
    return [panel for area, quantities in areas.items() for panel in _of_area(area, quantities)]


def _of_area(area: str, quantities: Sequence[str]) -> list[Panel]:
    shown = [quantity for quantity in quantities if quantity != _COEFFICIENT]
    panels = [_panel(area, area, "as docs/metrics.md says", shown)] if shown else []
    if _COEFFICIENT in quantities:
        panels.append(_panel(area, f"{area}: its coefficient", "mean over trained tokens", [_COEFFICIENT]))
    return panels


def _panel(area: str, title: str, unit: str, quantities: Sequence[str]) -> Panel:
    curves = tuple((f"{area}/{quantity}", quantity.replace("_", " ")) for quantity in quantities)
    return Panel(title=title, unit=unit, curves=curves)
