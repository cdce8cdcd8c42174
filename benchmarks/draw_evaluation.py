"""Held-out accuracy of a run, split by split, with 95 % intervals: `draw_evaluation.py RUN OUT.png`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megaent.report.metrics import read_metrics


def points(run: Path) -> list[dict[str, float]]:
    """One record an evaluation, names without ``evaluate/``; the one before the first step has step 0."""
    found = []
    before = run / "before.json"
    if before.is_file():
        found.append({"step": 0} | json.loads(before.read_text()))
    for record in read_metrics(run / "metrics.jsonl"):
        numbers = {n.removeprefix("evaluate/"): v for n, v in record.items() if n.startswith("evaluate/")}
        if numbers:
            found.append({"step": record["step"]} | numbers)
    return found


def draw(run: Path, out: Path) -> None:
    records = points(run)
    splits = sorted({name.split("/")[0] for name in records[-1] if name.endswith("/accuracy")})
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for prefix, label in [("", "all"), *((f"{split}/", split) for split in splits)]:
        steps = [record["step"] for record in records]
        middle = [record[prefix + "accuracy"] for record in records]
        low = [record[prefix + "accuracy_low"] for record in records]
        high = [record[prefix + "accuracy_high"] for record in records]
        [line] = axes.plot(steps, middle, marker="o", label=label)
        axes.fill_between(steps, low, high, alpha=0.15, color=line.get_color())
    axes.set(xlabel="step", ylabel="accuracy on held-out prompts", ylim=(0, 1))
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(str(out))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
