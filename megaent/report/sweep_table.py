"""The table of a sweep: a row a point, the seeds of one point together, each mean with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from megaent.report.interval import Mean, mean_of
from megaent.report.run_files import RunFiles, is_run, last_numbers, last_steps, read_run
from megaent.report.sweep_record import Outcome, Point, SweepRecord, name_of, read_outcome

FORMS = {"accuracy": "{:.1%}", "length": "{:.1f}", "entropy": "{:.3f}"}
HEADINGS = ("point", "seeds", "accuracy", "length, tokens", "entropy, nats", "state")
EVALUATED = "held-out prompts after the last step"
TRAINED = "the last tenth of the steps, as training saw them"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFiles:
    """One point with what it left: its outcome, and its run where there is one."""

    point: Point
    outcome: Outcome
    run: RunFiles | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The points that differ by their seed alone; means over those that finished."""

    words: tuple[str, ...]  # that are chosen for it, without the seed
    states: tuple[str, ...]
    means: Mapping[str, Mean]

    @property
    def name(self) -> str:
        return name_of(self.words)

    @property
    def cells(self) -> tuple[str, ...]:
        finished = self.states.count("finished")
        others = sorted({state for state in self.states if state != "finished"})
        state = ", ".join([*(["finished"] if finished else []), *others])
        values = [show(self.means.get(name), form) for name, form in FORMS.items()]
        return (self.name, f"{finished} of {len(self.states)}", *values, state)


def points_of(folder: Path, record: SweepRecord) -> list[PointFiles]:
    return [
        PointFiles(
            point=point,
            outcome=read_outcome(folder / point.folder),
            run=read_run(folder / point.folder) if is_run(folder / point.folder) else None,
        )
        for point in record.points
    ]


def source_of(runs: Sequence[RunFiles]) -> str:
    """Where the numbers of a table come from: from evaluations where every run has one."""
    return EVALUATED if runs and all(last_numbers(run) for run in runs) else TRAINED


def numbers_of(run: RunFiles, source: str) -> dict[str, float]:
    return last_numbers(run) if source == EVALUATED else last_steps(run)


def sweep_rows(points: Sequence[PointFiles]) -> tuple[list[Row], str]:
    """The rows in the sweep's order, and where their numbers come from."""
    source = source_of([point.run for point in points if point.run and point.outcome.state == "finished"])
    groups: dict[tuple[str, ...], list[PointFiles]] = {}
    for point in points:
        groups.setdefault(point.point.setting, []).append(point)
    return [_row(words, group, source) for words, group in groups.items()], source


def _row(words: tuple[str, ...], group: Sequence[PointFiles], source: str) -> Row:
    finished = [
        numbers_of(point.run, source) for point in group if point.run and point.outcome.state == "finished"
    ]
    values = {key: [numbers[key] for numbers in finished if key in numbers] for key in FORMS}
    means = {key: mean_of(of_seeds) for key, of_seeds in values.items() if of_seeds}
    return Row(words=words, states=tuple(point.outcome.state for point in group), means=means)


def show(mean: Mean | None, form: str) -> str:
    """``81.2% ± 3.4%``; without the interval where there is one seed."""
    if mean is None:
        return "-"
    width = "" if mean.half_width is None else f" ± {form.format(mean.half_width)}"
    return form.format(mean.value) + width


def sweep_table(rows: Sequence[Row], source: str) -> Table:
    """For a terminal."""
    table = Table(title=caption(source), title_justify="left", header_style="bold")
    for heading in HEADINGS:
        table.add_column(
            heading, justify="left" if heading in ("point", "state") else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*map(Text, row.cells))  # plain: a list in a name is no markup
    return table


def sweep_markdown(rows: Sequence[Row], source: str) -> str:
    """The same in Markdown, newline at the end."""
    lines = [caption(source), "", "| " + " | ".join(HEADINGS) + " |", "| --- |" + " ---: |" * 4 + " --- |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row.cells) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def caption(source: str) -> str:
    return f"Means over seeds with 95 % intervals (Student's t), on {source}"
