"""What a sweep traded for what, and what each of its choices did on average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from megaent.report.beside import figure
from megaent.report.interval import mean_of
from megaent.report.page import Cell, Section, figures, paragraph, table
from megaent.report.parallel_coordinates import parallel_coordinates
from megaent.report.svg import Frame, Mark, marks_chart
from megaent.report.sweep_record import FINISHED
from megaent.report.sweep_table import FORMS, PointFiles, Row, numbers_of, show

MOST_MARKS = 60
"""Settings in a picture: the first."""

_ACROSS = (  # measure, unit, less of it is better
    ("length", "length, tokens", True),
    ("entropy", "entropy, nats", False),
)


def sweep_pictures(points: Sequence[PointFiles], rows: Sequence[Row], source: str) -> list[Section]:
    """[] where no point has finished."""
    numbered = [(str(number), row) for number, row in enumerate(rows, start=1) if "accuracy" in row.means]
    if not numbered:
        return []
    shown = numbered[:MOST_MARKS]
    about = (
        "A row of the table is a point, by its number, with 95 % intervals over the seeds. Joined are the "
        "settings that no other beats in both measures, judged by their means: where intervals overlap, "
        "another seed may say otherwise."
    )
    drawn = [_picture(shown, *across) for across in _ACROSS]
    parts = [paragraph(about), figures(drawn)]
    if len(shown) < len(numbered):
        parts.append(paragraph(f"The first {len(shown)} of {len(numbered)} settings are drawn."))
    keys = choices(points)
    at_once = parallel_coordinates(shown, _chosen([row for _, row in shown], keys))
    parts += [at_once] if at_once else []
    sections = [Section(heading="What was traded", parts=tuple(parts))]
    effects = [_effect(key, points, source) for key in keys]
    if effects:
        sections.append(Section(heading="What each choice did", parts=tuple(effects)))
    return sections


def _picture(numbered: Sequence[tuple[str, Row]], name: str, unit: str, less_is_better: bool) -> str:
    marks = [_mark(number, row, name) for number, row in numbered if name in row.means]
    best = front(marks, less_is_better=less_is_better)
    title = f"Accuracy and {name}"
    names = ", ".join(mark.label for mark in best)
    words = f"Accuracy over {unit}, {len(marks)} settings; not beaten in both: {names}."
    frame = Frame(name=f"traded-{name}", title=title, unit="accuracy", words=words, across=unit)
    rows = [
        [number, row.name, show(row.means["accuracy"], FORMS["accuracy"]), show(row.means[name], FORMS[name])]
        for number, row in numbered
        if name in row.means and number in {mark.label for mark in best}
    ]
    caption = f"{title}: the settings that no other beats in both"
    numbers = table(("no.", "point", "accuracy", unit), rows, caption=caption)
    return figure(title, marks_chart(frame, marks, best), numbers)


def _mark(number: str, row: Row, name: str) -> Mark:
    x, y = row.means[name], row.means["accuracy"]
    return Mark(number, x.value, y.value, x.half_width or 0.0, y.half_width or 0.0)


def front(marks: Sequence[Mark], *, less_is_better: bool) -> list[Mark]:
    """The marks that no other beats: at least as good across and up, and better in one of them."""
    sign = -1 if less_is_better else 1

    def beats(one: Mark, other: Mark) -> bool:
        ours, theirs = (sign * one.x, one.y), (sign * other.x, other.y)
        return ours != theirs and ours[0] >= theirs[0] and ours[1] >= theirs[1]

    return [mark for mark in marks if not any(beats(other, mark) for other in marks)]


# ---------------------------------------------------------------- choices


def choices(points: Sequence[PointFiles]) -> list[str]:
    """The keys that the sweep chooses values of, the seed apart."""
    keys = dict.fromkeys(word.partition("=")[0] for point in points for word in point.point.words)
    return [key for key in keys if key != "seed"]


def _chosen(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, list[str]]:
    values = [dict(word.split("=", 1) for word in row.words) for row in rows]
    return {key: [of_row.get(key, "-") for of_row in values] for key in keys}


def _effect(key: str, points: Sequence[PointFiles], source: str) -> str:
    """A row a value: means over everything else that was chosen, intervals over the seeds."""
    values = dict.fromkeys(chosen for point in points if (chosen := _word(point, key)) is not None)
    rows: list[list[Cell]] = []
    for value in values:
        finished = [p for p in points if _word(p, key) == value and p.run and p.outcome.state == FINISHED]
        means = [
            _over_seeds(finished, lambda point, name=name: _number(point, name, source)) for name in FORMS
        ]
        cells = [
            show(mean_of(each), form) if each else "-"
            for each, form in zip(means, FORMS.values(), strict=True)
        ]
        rows.append([value, str(len(finished)), *cells])
    caption = f"{key}: means over all other choices, with 95 % intervals over the seeds, on {source}"
    return table((key, "runs", "accuracy", "length, tokens", "entropy, nats"), rows, caption=caption)


def _over_seeds(points: Sequence[PointFiles], number: Callable[[PointFiles], float | None]) -> list[float]:
    """One mean a seed, so that an interval is over what was repeated and not over what was chosen."""
    by_seed: dict[str, list[float]] = {}
    for point in points:
        value = number(point)
        if value is not None:
            by_seed.setdefault(_word(point, "seed") or "", []).append(value)
    return [fmean(values) for values in by_seed.values()]


def _number(point: PointFiles, name: str, source: str) -> float | None:
    return numbers_of(point.run, source).get(name) if point.run else None


def _word(point: PointFiles, key: str) -> str | None:
    """The value that the point has of a choice."""
    found = [word.partition("=")[2] for word in point.point.words if word.partition("=")[0] == key]
    return found[0] if found else None
