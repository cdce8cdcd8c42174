"""Accuracy against entropy on a page: the fit, its ceiling where there is one, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megaent.report.beside import figure, prefix, some
from megaent.report.entropy_fit import LEAST_POINTS, Fit, fit_entropy
from megaent.report.observatory import RunTables
from megaent.report.page import Cell, Number, figures, paragraph, table
from megaent.report.run_files import RunFiles, column
from megaent.report.svg import Frame, Line, points_chart

_FIT = "The fit R = -a exp(H) + b over the steps, H the mean entropy in nats"
_METRICS = (("evaluate/accuracy", "held-out prompts"), ("accuracy/mean", "training prompts"))


def fit_parts(runs: Mapping[str, tuple[RunFiles, RunTables]]) -> list[str]:
    parts, drawn, rows = [], [], []
    for number, (name, (run, _)) in enumerate(runs.items()):
        metric, source, points = _pairs(run)
        fit = fit_entropy(*zip(*points, strict=True)) if points else None
        if fit is None:
            parts.append(
                paragraph(
                    f"{prefix(name, runs)}No fit of accuracy to entropy: it takes {LEAST_POINTS} steps in "
                    "which the entropy moved."
                )
            )
            continue
        title = f"{prefix(name, runs)}Accuracy against entropy"
        drawn.append(
            figure(
                title, _fit_picture(f"fit{number}", title, points, fit), _pairs_table(title, metric, points)
            )
        )
        rows.append(_fit_row(name, source, fit))
        parts.append(paragraph(f"{prefix(name, runs)}{worth(fit)}"))
    if rows:
        headings = ("run", "R", "a", "b", "ceiling b - a", "95 % interval", "R squared")
        parts.insert(
            0,
            table(headings, rows, caption=_FIT),
        )
        parts.insert(0, figures(drawn))
    return ["<h3>Accuracy against entropy</h3>", *parts]


def _pairs(run: RunFiles) -> tuple[str, str, list[tuple[float, float]]]:
    """Entropy and accuracy at the same steps: of evaluations where there are enough, else of training."""
    for metric, source in _METRICS:
        entropy = dict(zip(*column(run, "entropy/mean"), strict=True))
        accuracy = dict(zip(*column(run, metric), strict=True))
        points = [(entropy[step], accuracy[step]) for step in sorted(entropy.keys() & accuracy.keys())]
        if len(points) >= LEAST_POINTS or metric == _METRICS[-1][0]:
            return metric, source, points
    raise AssertionError("the last metric is always taken")


def _fit_picture(name: str, title: str, points: Sequence[tuple[float, float]], fit: Fit) -> str:
    most = max(entropy for entropy, _ in points)
    across = [most * index / 40 for index in range(41)]
    line = Line(label="fit", steps=across, values=[fit.at(entropy) for entropy in across])
    words = (
        f"Accuracy of each step over its mean entropy in nats, {len(points)} steps, later ones fuller, "
        f"and the fitted curve, which reaches {fit.ceiling:.3g} at entropy 0."
    )
    frame = Frame(name=name, title=title, unit="accuracy", words=words, across="entropy, nats")
    return points_chart(frame, points, line)


def _pairs_table(title: str, metric: str, points: Sequence[tuple[float, float]]) -> str:
    rows: list[list[Cell]] = [[Number(entropy), Number(accuracy)] for entropy, accuracy in some(points)]
    caption = f"{title}: {metric} over entropy/mean, in the order of the steps"
    return table(("entropy, nats", "accuracy"), rows, caption=caption)


def _fit_row(name: str, source: str, fit: Fit) -> list[Cell]:
    ceiling: list[Cell] = [Number(fit.ceiling, "{:.3f}"), f"{fit.low:.3f} to {fit.high:.3f}"]
    return [
        name,
        f"accuracy on {source}",
        Number(fit.a, "{:.3f}"),
        Number(fit.b, "{:.3f}"),
        *(ceiling if fit.holds else ["not told", "-"]),
        Number(fit.explained, "{:.2f}"),
    ]


def worth(fit: Fit) -> str:
    """What the fit is worth, in sentences."""
    ahead = (
        f"Fitted to the first half of the steps alone it is off by {fit.error_ahead:.3f} on average in the "
        f"second; keeping the first half's last level is off by {fit.error_of_last:.3f}."
    )
    if not fit.holds:
        reason = (
            "accuracy did not rise as entropy fell"
            if fit.a <= 0
            else f"it explains {fit.explained:.0%} of the variance"
        )
        return f"The relation is not seen here ({reason}), so no ceiling is told. {ahead}"
    beyond = " It lies outside what a share can be." if not 0 <= fit.ceiling <= 1 else ""
    return (
        f"The curve explains {fit.explained:.0%} of the variance over the steps and meets entropy 0 at "
        f"{fit.ceiling:.3f}.{beyond} The interval is that of the curve, if the run goes on along it: both "
        f"quantities also move with time alone, and the fit says nothing of cause. {ahead}"
    )
