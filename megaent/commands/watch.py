"""``megaent watch DIR``: the steps and alarms of a run of another process, from its files alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from megaent.errors import DataError
from megaent.report.alarms import alarms
from megaent.report.metrics import read_whole_lines
from megaent.report.progress import Progress


def watch(words: Sequence[str], *, console: Console | None = None) -> int:
    """Until the run has ended, or once with ``--once``. Raises DataError for what is no run."""
    parser = argparse.ArgumentParser(prog="megaent watch", description="A run while it goes on.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a run's directory")
    parser.add_argument("--once", action="store_true", help="show what is there and end")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="default: 2")
    asked = parser.parse_args(words)
    _follow(asked.folder, _steps(asked.folder), None if asked.once else asked.every, console)
    return 0


def _follow(folder: Path, steps: int, every: float | None, console: Console | None) -> None:
    shown, told, seconds = 0, 0, 0.0
    # Steps of the past took what they say, not what reading them takes.
    with Progress(steps, console=console or Console(highlight=False), clock=lambda: seconds) as progress:
        while True:
            # Asked before the steps are read, so that none is missed.
            is_over = (folder / "summary.json").exists()
            records = _records(folder)
            if records and records[-1]["step"] < shown:
                progress.say("the run went back to an earlier checkpoint")
                shown, told, seconds = 0, 0, 0.0
            for record in records:
                if record["step"] > shown:
                    seconds += record.get("time/step_s", 0.0)
                    shown = int(record["step"])
                    progress.update(shown, record)
            found = alarms(records)
            for alarm in found[told:]:
                progress.say(f"alarm  {alarm}")
            told = len(found)
            if is_over or every is None:
                break
            time.sleep(every)
        if not shown:
            progress.say(f"{folder} has no finished step yet")


def _records(folder: Path) -> list[dict[str, float]]:
    """The steps that can be read; a line that is cut or damaged is none, as in a report."""
    path = folder / "metrics.jsonl"
    return read_whole_lines(path)[0] if path.exists() else []


def _steps(folder: Path) -> int:
    path = folder / "config.yaml"
    if not path.is_file():
        raise DataError(f"{folder} is not a run's directory: it has no config.yaml")
    steps = OmegaConf.select(OmegaConf.load(path), "steps")
    if not isinstance(steps, int):
        raise DataError(f"{path} does not say how many steps the run has; it is no run of this version")
    return steps
