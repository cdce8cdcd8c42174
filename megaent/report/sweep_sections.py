"""The report of a sweep: its table, what failed, curves of its settings over each other."""

from __future__ import annotations

from collections.abc import Sequence

from megaent.report.comparison_sections import curves
from megaent.report.page import Cell, Number, Section, notes, paragraph, preformatted, table
from megaent.report.run_files import RunFiles
from megaent.report.sweep_pictures import sweep_pictures
from megaent.report.sweep_ranks import rank_sections
from megaent.report.sweep_record import FINISHED, SweepRecord
from megaent.report.sweep_table import HEADINGS, PointFiles, Row, caption, sweep_rows


def sweep_sections(record: SweepRecord, points: Sequence[PointFiles]) -> list[Section]:
    rows, source = sweep_rows(points)
    return [
        Section(heading="The table", parts=(_table(rows, source),)),
        *sweep_pictures(points, rows, source),
        *rank_sections(points, rows, source, record.common),
        Section(heading="Points that did not finish", parts=(_unfinished(points),)),
        Section(heading="Curves over each other", parts=tuple(curves(_groups(points)))),
        Section(heading="Every point", parts=(_every(points),)),
        Section(
            heading="What all points share",
            parts=(
                preformatted("\n".join(record.common) or "nothing but the defaults", label="Common words"),
            ),
        ),
        *_notes(points),
    ]


def _table(rows: Sequence[Row], source: str) -> str:
    """Numbered, so that pictures can name a row in little room."""
    numbered = [(str(number), *row.cells) for number, row in enumerate(rows, start=1)]
    return table(("no.", *HEADINGS), numbered, caption=caption(source))


def _unfinished(points: Sequence[PointFiles]) -> str:
    rows = [
        [
            point.point.name,
            point.outcome.state,
            str(point.outcome.exit_code or "-"),
            point.outcome.message or "-",
        ]
        for point in points
        if point.outcome.state != FINISHED
    ]
    if not rows:
        return paragraph("All points finished.")
    return table(
        ("point", "state", "exit code", "what it said last"), rows, caption=f"{len(rows)} of {len(points)}"
    )


def _groups(points: Sequence[PointFiles]) -> dict[str, list[RunFiles]]:
    """Runs by setting, those of several seeds together: the finished ones, or where none is, those under way.

    What has no step yet has no curve.
    """
    groups: dict[str, list[PointFiles]] = {}
    for point in points:
        if point.run is not None and point.run.metrics:
            groups.setdefault(point.point.but_for_the_seed, []).append(point)
    return {name: _finished_or_all(group) for name, group in groups.items()}


def _finished_or_all(points: Sequence[PointFiles]) -> list[RunFiles]:
    finished = [point for point in points if point.outcome.state == FINISHED]
    return [point.run for point in finished or points if point.run is not None]


def _every(points: Sequence[PointFiles]) -> str:
    rows: list[list[Cell]] = [
        [
            point.point.name,
            point.outcome.state,
            str(point.run.steps if point.run else 0),
            Number(point.outcome.seconds, "{:.0f}"),
            point.point.folder,
        ]
        for point in points
    ]
    return table(
        ("point", "state", "steps", "seconds, last attempt", "folder"), rows, caption=f"{len(rows)} points"
    )


def _notes(points: Sequence[PointFiles]) -> list[Section]:
    said = [f"{point.point.name}: {note}" for point in points if point.run for note in point.run.notes]
    return [Section(heading="What could not be read", parts=(notes(said),))] if said else []
