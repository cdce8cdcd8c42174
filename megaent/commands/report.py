"""``megaent report DIR…``: one file of HTML about a run, several runs or a sweep."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from megaent.durable import replace_file
from megaent.errors import ConfigError, DataError
from megaent.report.comparison_sections import comparison_sections, names_of
from megaent.report.heat_map import heat_map_section
from megaent.report.observatory import read_tables
from megaent.report.observatory_sections import MOST_RUNS, observatory_section
from megaent.report.page import GENERATOR, Section, paragraph, render_page
from megaent.report.run_files import RunFiles, read_run
from megaent.report.run_sections import run_sections, state_of
from megaent.report.sweep_record import SWEEP, read_sweep
from megaent.report.sweep_sections import sweep_sections
from megaent.report.sweep_table import points_of
from megaent.report.tables import FOLDER as TABLES

FILE = "report.html"


def report(words: Sequence[str], say: Callable[[str], None]) -> int:
    """Raises ConfigError for a command that makes no sense, DataError for what is no run."""
    parser = argparse.ArgumentParser(
        prog="megaent report", description="One HTML file about a run, several runs, or a sweep."
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a run's directory, or a sweep's"
    )
    parser.add_argument(
        "--out", type=Path, help=f"default: {FILE} in the directory, or here for several directories"
    )
    asked = parser.parse_args(words)
    folders = list(dict.fromkeys(folder.absolute() for folder in asked.folders))
    out = asked.out or (folders[0] if len(folders) == 1 else Path()) / FILE
    _refuse_other_file(out)
    text = _page(folders)
    try:
        replace_file(out, text)
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written: {error.strerror or error}; choose another --out"
        ) from error
    say(f"report  {out}  ({len(text.encode()) / 1e6:.1f} MB)")
    return 0


def _page(folders: Sequence[Path]) -> str:
    if len(folders) == 1:
        return _of_sweep(folders[0]) if (folders[0] / SWEEP).is_file() else _of_run(folders[0])
    sweeps = [str(folder) for folder in folders if (folder / SWEEP).is_file()]
    if sweeps:
        raise ConfigError(f"{sweeps[0]} is a sweep, which has a report of its own; compare runs with runs")
    names = names_of(folders)
    runs = dict(zip(names, map(read_run, folders), strict=True))
    seen = dict(zip(names, folders, strict=True))
    return _rendered(
        f"{len(runs)} runs", ", ".join(runs), [*comparison_sections(runs), *_looked_at(runs, seen)]
    )


def _of_run(folder: Path) -> str:
    run = read_run(folder)
    first, curves, *others = run_sections(run)
    looked_at = _looked_at({folder.name: run}, {folder.name: folder})
    return _rendered(f"Run {folder.name}", state_of(run), [first, curves, *looked_at, *others])


def _looked_at(runs: Mapping[str, RunFiles], folders: Mapping[str, Path]) -> list[Section]:
    """What only tables can show, of the first runs that have them."""
    with_tables = [name for name, folder in folders.items() if (folder / TABLES).is_dir()]
    tables = {name: read_tables(folders[name]) for name in with_tables[:MOST_RUNS]}
    left_out = len(with_tables) - len(tables)
    seen = observatory_section(
        {name: (runs[name], found) for name, found in tables.items()}, left_out=left_out
    )
    return [*seen, *heat_map_section(tables)]


def _of_sweep(folder: Path) -> str:
    record = read_sweep(folder)
    points = points_of(folder, record)
    lead = f"{len(points)} points in {folder}"
    return _rendered(f"Sweep {folder.name}", lead, sweep_sections(record, points))


def _rendered(title: str, lead: str, sections: Sequence[Section]) -> str:
    return render_page(title, paragraph(lead), sections)


def _refuse_other_file(out: Path) -> None:
    """A report may be made again; nothing else is written over."""
    if out.is_dir():
        raise ConfigError(f"--out={out} is a directory; name a file")
    try:
        head = out.read_bytes()[:1000]
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{out} cannot be read: {error.strerror}; choose another --out") from error
    if GENERATOR.encode() not in head:
        raise ConfigError(f"{out} is there and is no report of megaent; choose another --out")
