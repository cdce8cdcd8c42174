"""Several methods from one start, side by side: one table, one picture.

An evaluation is what summary.json holds of one: accuracies and lengths over all prompts and, under
``easy/`` and ``hard/``, of each split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from megaent.errors import MissingDependency
from megaent.report.metrics import read_metrics

Evaluation = Mapping[str, float]

COLUMNS = (  # heading, key, form
    ("easy: right", "easy/accuracy", "{:.0%}"),
    ("hard: right", "hard/accuracy", "{:.0%}"),
    ("hard: pass@8", "hard/pass_at_8", "{:.0%}"),
    ("easy: tokens", "easy/mean_length", "{:.1f}"),
    ("hard: tokens", "hard/mean_length", "{:.1f}"),
    ("entropy, nats", "mean_entropy", "{:.3f}"),
    ("first token, hard", "hard/mean_first_entropy", "{:.3f}"),
)
_PANELS = (  # title, unit, metric of an evaluation during the run, key in ``before``
    ("Right on easy prompts", "share", "evaluate/easy/accuracy", "easy/accuracy"),
    ("Right on hard prompts", "share", "evaluate/hard/accuracy", "hard/accuracy"),
    ("Length on easy prompts", "tokens", "evaluate/easy/mean_length", "easy/mean_length"),
    ("Length on hard prompts", "tokens", "evaluate/hard/mean_length", "hard/mean_length"),
    (
        "Entropy of the first token, easy",
        "nats",
        "evaluate/easy/mean_first_entropy",
        "easy/mean_first_entropy",
    ),
    (
        "Entropy of the first token, hard",
        "nats",
        "evaluate/hard/mean_first_entropy",
        "hard/mean_first_entropy",
    ),
)
_COLOURS = ("#1f5fa8", "#b3332e", "#2e8b57", "#8a5fb0", "#d1772a")


def rows(before: Evaluation, after: Mapping[str, Evaluation]) -> list[tuple[str, ...]]:
    """One row per method, the start first."""
    evaluations = {"before": before, **after}
    return [
        (title, *(form.format(evaluation[key]) for _, key, form in COLUMNS))
        for title, evaluation in evaluations.items()
    ]


def comparison_table(before: Evaluation, after: Mapping[str, Evaluation]) -> Table:
    """For a terminal."""
    table = Table(title="From one warm-up, on held-out prompts", title_justify="left", header_style="bold")
    table.add_column("")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for row in rows(before, after):
        table.add_row(*row)
    return table


def comparison_markdown(before: Evaluation, after: Mapping[str, Evaluation]) -> str:
    """The same in Markdown, newline at the end."""
    lines = ["| | " + " | ".join(heading for heading, _, _ in COLUMNS) + " |"]
    lines += ["| --- |" + " ---: |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(before, after)]
    return "\n".join(lines) + "\n"


def draw_comparison(runs: Mapping[str, Path], before: Evaluation, out_png: Path) -> None:
    """Small multiples over the step, one line a method: what held-out prompts said during the runs."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("matplotlib is not installed; run `pip install 'megaent[train]'`") from error
    records = {title: read_metrics(path) for title, path in runs.items()}
    figure = Figure(figsize=(8.6, 9.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle("One warm-up, held-out prompts", fontsize=13, fontweight="bold", x=0.01, ha="left")
    grid = list(figure.subplots(3, 2, squeeze=False).flat)
    for axes, (title, unit, metric, key) in zip(grid, _PANELS, strict=True):
        for (name, lines), colour in zip(records.items(), _COLOURS, strict=False):
            points = [(0.0, before[key])] + [(line["step"], line[metric]) for line in lines if metric in line]
            axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.8, marker=".", label=name)
        axes.set_title(title, fontsize=11, loc="left")
        axes.set_ylabel(unit, fontsize=9)
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].legend(fontsize=8, frameon=False)
    canvas.print_png(str(out_png))
