"""``megaent audit FILE|RUN``: what a person should look at in answer keys and graded responses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megaent.commands.audit_findings import Case, Findings, Judged, find
from megaent.errors import ConfigError

USAGE = """usage: megaent audit FILE|RUN [--rows N]

  FILE   a .jsonl or .json file of questions and answers; with a field response or
         responses these are graded too
  RUN    a run's directory: the responses it recorded in responses.md

Shows keys and answers that are not understood, grades on which math-verify's
defaults disagree, the shortest paid and the longest unpaid responses; N of each, 10.
"""
_WIDTH = 80
_END = 60  # characters of a response that are shown, its last


def audit(words: Sequence[str], *, console: Console | None = None) -> int:
    if not words or "--help" in words or "-h" in words:
        print(USAGE, end="")
        return 0
    path, count = _arguments(words)
    findings = find(path)
    show(findings, count, console or Console(width=_WIDTH, highlight=False))
    return 0


def _arguments(words: Sequence[str]) -> tuple[Path, int]:
    rest = list(words)
    count = "10"
    if "--rows" in rest:
        place = rest.index("--rows")
        count = rest[place + 1] if place + 1 < len(rest) else ""
        del rest[place : place + 2]
    if len(rest) != 1 or not count.isdecimal():
        raise ConfigError(f"audit takes one file or run, and --rows with a number; got {' '.join(words)}")
    path = Path(rest[0])
    if not path.exists():
        raise ConfigError(f"{path} is neither a file nor a run's directory")
    return path, int(count)


def show(findings: Findings, count: int, console: Console) -> None:
    console.print(Text(findings.source))
    console.print(Text(_counts(findings)))
    _table(console, "Rows without a key", ("where", "why"), findings.unusable, count)
    unread = [(case.place, case.key) for case in findings.unread_keys()]
    _table(
        console,
        "Keys that are not understood: compared as text, and by math-verify",
        ("where", "key"),
        unread,
        count,
    )
    disagreements = [_disagreement(judged) for judged in findings.disagreements()]
    columns = ("where", "key", "response", "we", "default")
    _table(console, "Grades on which math-verify's defaults disagree", columns, disagreements, count)
    if not findings.has_responses:
        return
    answers = [(case.place, case.key, answer) for case, answer in findings.unread_answers()]
    _table(console, "Answers that are not understood", ("where", "key", "answer"), answers, count)
    graded = ("where", "key", "characters", "response")
    _table(console, "The shortest paid responses", graded, map(_length, findings.shortest_paid(count)), count)
    _table(
        console, "The longest unpaid responses", graded, map(_length, findings.longest_unpaid(count)), count
    )


def _counts(findings: Findings) -> str:
    kinds = ", ".join(f"{number} {kind}" for kind, number in findings.kinds().most_common())
    rows, unusable = len(findings.cases) + len(findings.unusable), len(findings.unusable)
    lines = [f"{rows} rows, {unusable} without a key; distinct keys: {kinds}"]
    if findings.has_responses:
        paid = sum(judged.grade.correct for judged in findings.judged)
        lines.append(
            f"{len(findings.judged)} responses, {paid} paid, {findings.unanswered()} without an answer"
        )
    return "\n".join(lines)


def _disagreement(judged: Judged) -> tuple[str, ...]:
    ours, theirs = ("paid" if verdict else "no" for verdict in (judged.grade.correct, judged.by_defaults))
    return judged.case.place, judged.case.key, _end(judged.case), ours, theirs


def _length(judged: Judged) -> tuple[str, ...]:
    return judged.case.place, judged.case.key, str(len(judged.case.response)), _end(judged.case)


def _end(case: Case) -> str:
    text = " ".join(case.response.split())
    return text if len(text) <= _END else f"…{text[-_END:]}"


def _table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], count: int
) -> None:
    """The first ``count`` rows, and how many there are; nothing for none."""
    rows = list(rows)
    console.print()
    console.print(Text(f"{title}: {len(rows) or 'none'}", style="bold"))
    if not rows or not count:
        return
    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0))
    for column in columns:
        is_narrow = column in ("where", "we", "default", "characters")
        table.add_column(column, no_wrap=is_narrow, overflow="fold", ratio=None if is_narrow else 1)
    for row in rows[:count]:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    console.print(table)


def _shown(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
