"""The numbers as a person reads them: on the terminal, and in docs/kernels.md from the committed JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megaent.errors import DataError

BEGIN, END = "<!-- bench table: begin -->", "<!-- bench table: end -->"
HEADER = ("", "ms", "CPU ms", "x eager", "x compile", "of roofline", "extra memory", "entropy")


def title(case: dict[str, Any]) -> str:
    size = f"N = {case['rows']}, V = {case['vocab_size']}"
    if case["path"] == "linear":
        size += f", D = {case['hidden_size']}"
    return f"{case['path']} path, {case['pass']}, {case['dtype']}, {case['shape']} ({size})"


def lines(case: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row a contender, in the columns of ``HEADER``; those that did not run say why in the second."""
    by_name = {row["name"]: row for row in case["contenders"]}
    made = [_roofline_line(case["roofline"])]
    for row in case["contenders"]:
        if "median_wall_s" not in row:
            made.append((row["name"], row["note"], *[""] * (len(HEADER) - 2)))
            continue
        made.append(
            (
                row["name"],
                _milliseconds(row.get("median_wall_s")),
                _milliseconds(row.get("median_cpu_s")),
                _ratio(row, by_name.get("torch eager")),
                _ratio(row, by_name.get("torch.compile")),
                f"{row['share_of_roofline']:.0%}",
                memory(row["peak_extra_bytes"], case["rows"]),
                "yes" if row["has_entropy"] else "no",
            )
        )
    return made


def _roofline_line(roofline: dict[str, Any]) -> tuple[str, ...]:
    what, unit = roofline["what"].split(", ")
    rate = f"{roofline['per_s'] / 1e9:.3g} G{unit}/s"
    wall, cpu = roofline["median_wall_s"], roofline.get("median_cpu_s")
    return (f"{what} ({rate})", _milliseconds(wall), _milliseconds(cpu), "", "", "", "", "")


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.4g}"


def _ratio(row: dict[str, Any], other: dict[str, Any] | None) -> str:
    """How many times as fast, in CPU seconds where there are any."""
    clock = "median_cpu_s" if "median_cpu_s" in row else "median_wall_s"
    if other is None or clock not in other:
        return ""
    return f"{other[clock] / row[clock]:.3g}"


def memory(num_bytes: int, num_rows: int) -> str:
    if num_bytes < 1024 * num_rows:
        return f"{num_bytes / num_rows:.0f} B a token"
    return f"{num_bytes / 2**20:.0f} MiB"


def text(case: dict[str, Any]) -> str:
    """For the terminal: aligned columns."""
    rows = [HEADER, *lines(case)]
    # A note may be long and has its line to itself.
    widths = [max(len(row[i]) for row in rows if row[2] or i == 0) for i in range(len(HEADER))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([title(case), *(f"  {line.rstrip()}" for line in shown)])


def markdown(reports: Sequence[dict[str, Any]]) -> str:
    """For a document: every case of every report, absent contenders left out."""
    parts = []
    for report in reports:
        parts.append(_heading(report))
        for case in report["cases"]:
            ran = [line for line in lines(case) if line[1] and line[1][0].isdigit()]
            parts.append(f"{title(case)}:\n")
            parts.append("| " + " | ".join(HEADER) + " |")
            parts.append("| --- |" + " ---: |" * (len(HEADER) - 1))
            parts += ["| " + " | ".join(line) + " |" for line in ran]
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _heading(report: dict[str, Any]) -> str:
    machine = report["machine"]
    where = machine["name"]
    if "threads" in machine:
        where += f", {machine['threads']} of {machine['cores']} cores, {machine['instructions']}"
        where += f", load {machine['load_before'][0]:.1f} before"
    commit = report["commit"].removesuffix("-dirty")[:12]
    return (
        f"### {where}\n\ntorch {report['versions']['torch']}, {report['date']}, commit {commit}, "
        f"`{report['command']}`, medians of {report['rounds']} interleaved rounds.\n"
    )


def read_reports(paths: Sequence[Path]) -> list[dict[str, Any]]:
    reports = []
    for path in paths:
        report = json.loads(path.read_text())
        if not isinstance(report, dict) or "cases" not in report:
            raise DataError(f"{path} is no report of `megaent bench ops`: it has no cases")
        reports.append(report)
    return reports


def put_into(document: Path, table: str) -> None:
    """Replaces what stands between the marks."""
    words = document.read_text()
    if words.count(BEGIN) != 1 or words.count(END) != 1:
        raise DataError(f"{document} must hold {BEGIN} and {END} once each")
    before, after = words.split(BEGIN)[0], words.split(END)[1]
    document.write_text(f"{before}{BEGIN}\n\n{table}\n{END}{after}")
