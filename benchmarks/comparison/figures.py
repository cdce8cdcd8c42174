"""Learning curves of every arm beside GRPO's, with 95 % intervals over seeds, and entropy by position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.report.interval import mean_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS = 5
PANEL = (2.6, 2.0)  # inches
CURVES = {"accuracy/mean": "accuracy", "length/mean": "tokens", "entropy/mean": "entropy, nats"}


def draw(task: str, rows: list[dict], folder: Path) -> list[Path]:
    """One picture a quantity, a panel an arm; GRPO in grey behind each."""
    if not set(_arms(rows)) - {"grpo"}:
        raise ValueError(f"a picture needs an arm beside grpo, and {task} has none that finished")
    series = {
        name.split("/")[0]: {
            arm: [row["trajectory"][name] for row in rows if row["arm"] == arm] for arm in _arms(rows)
        }
        for name in CURVES
    }
    positions = {
        arm: [
            row["entropy_by_position"] for row in rows if row["arm"] == arm and "entropy_by_position" in row
        ]
        for arm in _arms(rows)
    }
    drawn = [
        _picture(curves, "step", CURVES[f"{name}/mean"], folder / f"{task}_{name}.png")
        for name, curves in series.items()
    ]
    if all(positions.values()):
        drawn.append(
            _picture(positions, "position, token", "entropy, nats", folder / f"{task}_positions.png")
        )
    return drawn


def _arms(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _picture(curves: dict[str, list[list[float]]], along: str, up: str, path: Path) -> Path:
    from matplotlib.figure import Figure

    others = [arm for arm in curves if arm != "grpo"]
    across = min(ACROSS, len(others))
    down = -(-len(others) // across)
    figure = Figure(figsize=(PANEL[0] * across, PANEL[1] * down), layout="constrained")
    panels = list(figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat)
    for arm, panel in zip(others, panels, strict=False):
        _line(panel, curves.get("grpo", []), "0.5")
        _line(panel, curves[arm], "C0")
        panel.set_title(arm, fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in panels[len(others) :]:
        panel.set_axis_off()
    figure.supxlabel(along, fontsize=8)
    figure.supylabel(up, fontsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return path


def _line(panel: Axes, curves: Sequence[Sequence[float]], colour: str) -> None:
    """The mean over seeds and its interval; as far as every seed goes."""
    if not curves:
        return
    means = [mean_of(values) for values in zip(*curves, strict=False)]
    x = range(1, len(means) + 1)
    panel.plot(x, [m.value for m in means], color=colour, linewidth=1)
    low, high = ([m.value + sign * (m.half_width or 0.0) for m in means] for sign in (-1, 1))
    panel.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
