"""What a finished run shows: numbers before and after, a table, curves; made again where they are missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from megaent.durable import replace_file
from megaent.report.curves import EVALUATION_KEYS, before_after_markdown, draw_curves, write_summary
from megaent.report.metrics import read_metrics
from megaent.run.directory import RunDirectory

Numbers = dict[str, float]


class Summary(NamedTuple):
    before: Numbers
    after: Numbers


def read_summary(directory: RunDirectory, *, steps: int) -> Summary | None:
    """The evaluations of the run after ``steps``; None where they were not written, or cannot be read."""
    try:
        found = json.loads(directory.summary.read_bytes())
        summary = Summary(found["before"], found["after"])
        is_whole = found["steps"] == steps and all(map(_is_evaluation, summary))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return summary if is_whole else None


def _is_evaluation(numbers: object) -> bool:
    return isinstance(numbers, Mapping) and all(
        isinstance(numbers.get(key), int | float) for key in EVALUATION_KEYS
    )


def finish(directory: RunDirectory, summary: Summary, *, steps: int, seconds: float, title: str) -> None:
    """Write everything anew. summary.json comes last, so where it is the others were."""
    show(directory, summary, title=title)
    write_summary(directory.summary, summary.before, summary.after, steps=steps, seconds=seconds)


def complete(directory: RunDirectory, summary: Summary, *, title: str) -> bool:
    """Make again what was lost of the table and the picture; whether something was."""
    if directory.summary_table.exists() and directory.curves.exists():
        return False
    show(directory, summary, title=title)
    return True


def show(directory: RunDirectory, summary: Summary, *, title: str) -> None:
    """The table, and the curves of what metrics.jsonl still holds."""
    replace_file(directory.summary_table, before_after_markdown(summary.before, summary.after))
    if read_metrics(directory.metrics):
        draw_curves(directory.metrics, directory.curves, title=title)
