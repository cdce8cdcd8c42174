"""What a run has to show for itself: its curves, and the model before and after.

An evaluation is a mapping with at least the keys of ``EVALUATION_KEYS``: shares in [0, 1], lengths in
tokens, entropies in nats, ``accuracy_low`` and ``accuracy_high`` the ends of the 95 % interval.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from megaent.durable import replace_file
from megaent.errors import DataError, MissingDependency
from megaent.report.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVALUATION_KEYS = (
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "mean_length",
    "mean_entropy",
)  # and pass_at_8

PANELS = (  # title, y label, (metric, label) drawn when it was reported
    ("Reward and accuracy", "per response", (("reward/mean", "reward"), ("accuracy/mean", "accuracy"))),
    ("Entropy", "nats a token", (("entropy/mean", "mean"), ("entropy/p90", "90th percentile"))),
    ("Length", "tokens a response", (("length/mean", "mean"),)),
    (
        "Groups without a signal",
        "share of groups",
        (("accuracy/solved_none", "none correct"), ("accuracy/solved_all", "all correct")),
    ),
    ("Gradient norm", "before clipping", (("grad/norm", "norm"),)),
    (
        "Trainer and engine",
        "nats, absolute",
        (("mismatch/mean_abs", "mean"), ("mismatch/max_abs", "max")),
    ),
)
_COLOURS = ("#1f5fa8", "#d1772a")


def draw_curves(metrics_path: Path, out_png: Path, *, title: str) -> None:
    """Draw the run's curves as small multiples over the step; faint points are steps, lines their trend."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("matplotlib is not installed; run `pip install 'megaent[train]'`") from error
    records = read_metrics(metrics_path)
    if not records:
        raise DataError(f"{metrics_path} holds no finished step; train at least one before drawing curves")
    panels = [(name, unit, _reported(records, curves)) for name, unit, curves in PANELS]
    panels = [panel for panel in panels if panel[2]]
    columns = 3
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(4.2 * columns, 0.5 + 2.9 * rows), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, unit, curves) in zip(grid, panels, strict=False):
        _draw_panel(axes, name, unit, records=records, curves=curves)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    out_png.parent.mkdir(parents=True, exist_ok=True)
    # Under the name only when whole: a kill in the middle leaves no part of a picture.
    aside = out_png.with_name(f".{out_png.name}.new")
    canvas.print_png(str(aside))
    aside.replace(out_png)


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential mean to both sides, over about a tenth of the run, so that the trend does not lag.

    ``y_i = sum_j a^|i-j| x_j / sum_j a^|i-j|``, with ``1 / (1 - a) = max(1, n / 20)`` steps to each side.
    """
    keep = 1 - 1 / max(1.0, len(values) / 20)
    ones = [1.0] * len(values)
    return [total / weight for total, weight in zip(_spread(values, keep), _spread(ones, keep), strict=True)]


def _spread(values: Sequence[float], keep: float) -> list[float]:
    """``sum_j keep^|i-j| x_j`` for every i: a running sum from each end, x_i being in both."""
    forward = list(accumulate(values, lambda total, value: keep * total + value))
    backward = list(accumulate(reversed(values), lambda total, value: keep * total + value))[::-1]
    return [left + right - value for left, right, value in zip(forward, backward, values, strict=True)]


def before_after_table(before: Mapping[str, float], after: Mapping[str, float]) -> Table:
    """The two evaluations side by side, for a terminal."""
    table = Table(title="Evaluation", title_justify="left", header_style="bold")
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for row in _rows(before, after):
        table.add_row(*row)
    return table


def before_after_markdown(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """The same table in Markdown, newline at the end."""
    lines = ["| | before | after | change |", "| --- | ---: | ---: | ---: |"]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(before, after)]
    return "\n".join(lines) + "\n"


def write_summary(
    path: Path, before: Mapping[str, float], after: Mapping[str, float], *, steps: int, seconds: float
) -> None:
    """Write ``{"before": {...}, "after": {...}, "steps": ..., "seconds": ...}``, atomically.

    ``seconds`` is the wall time of the whole run; each evaluation brings the ``seconds`` it took itself.
    """
    for name, evaluation in (("before", before), ("after", after)):
        _require_keys(name, evaluation, (*EVALUATION_KEYS, "seconds"))
    summary = {"before": dict(before), "after": dict(after), "steps": steps, "seconds": seconds}
    replace_file(path, json.dumps(summary, indent=2, allow_nan=False) + "\n")


def _rows(before: Mapping[str, float], after: Mapping[str, float]) -> list[tuple[str, str, str, str]]:
    _require_keys("before", before, EVALUATION_KEYS)
    _require_keys("after", after, EVALUATION_KEYS)

    def interval(evaluation: Mapping[str, float]) -> str:
        return f"{evaluation['accuracy_low']:.1%} to {evaluation['accuracy_high']:.1%}"

    def row(label: str, key: str, form: str, change: str) -> tuple[str, str, str, str]:
        return label, form.format(before[key]), form.format(after[key]), change

    def points(key: str) -> str:
        return f"{100 * (after[key] - before[key]):+.1f} points"

    def relative(key: str) -> str:
        return f"{after[key] / before[key] - 1:+.0%}" if before[key] else "-"

    has_pass = "pass_at_8" in before and "pass_at_8" in after  # not with fewer than 8 responses a prompt
    return [
        row("accuracy", "accuracy", "{:.1%}", points("accuracy")),
        ("95 % interval", interval(before), interval(after), ""),
        *([row("pass@8", "pass_at_8", "{:.1%}", points("pass_at_8"))] if has_pass else []),
        row("mean length, tokens", "mean_length", "{:.1f}", relative("mean_length")),
        row("mean entropy, nats", "mean_entropy", "{:.3f}", relative("mean_entropy")),
    ]


def _require_keys(name: str, evaluation: Mapping[str, float], keys: Sequence[str]) -> None:
    missing = [key for key in keys if key not in evaluation]
    if missing:
        raise ValueError(f"the evaluation {name} must have {', '.join(keys)}; it lacks {', '.join(missing)}")


def _reported(
    records: Sequence[Mapping[str, float]], curves: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    return [(name, label) for name, label in curves if any(name in record for record in records)]


def _draw_panel(
    axes: Axes,
    title: str,
    unit: str,
    *,
    records: Sequence[Mapping[str, float]],
    curves: Sequence[tuple[str, str]],
) -> None:
    for (name, label), colour in zip(curves, _COLOURS, strict=False):
        points = [(record["step"], record[name]) for record in records if name in record]
        steps, values = [step for step, _ in points], [value for _, value in points]
        axes.plot(steps, values, ".", color=colour, alpha=0.25, markersize=4, markeredgewidth=0)
        axes.plot(steps, smooth(values), color=colour, linewidth=1.8, label=label)
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_ylabel(unit, fontsize=9)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.01)
    if len(curves) > 1:
        axes.legend(fontsize=8, frameon=False)
