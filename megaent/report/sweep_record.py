"""What a sweep leaves behind: ``sweep.json``, its points; ``outcome.json`` in each point's folder.

runs/sweep-…/
  sweep.json                the words that all points share, and the points
  sweep.md                  the table
  log.txt                   when a point began and ended; locked while the sweep is under way
  method=grpo,seed=0/       one run, with output.txt, what it said, and outcome.json, how it ended
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megaent.durable import replace_file
from megaent.errors import DataError

SWEEP = "sweep.json"
OUTCOME = "outcome.json"
OUTPUT = "output.txt"
FORMAT = 1
_ONE = "the one setting"

FINISHED, STOPPED, FAILED, REFUSED, UNFINISHED = "finished", "stopped", "failed", "refused", "unfinished"
SET_ASIDE = "set aside"
"""Judged after few steps and not gone on with: of a sweep with ``sweep.halving``."""


def name_of(words: Sequence[str]) -> str:
    return ",".join(words) or _ONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One combination. Its name is the words that the sweep chooses for it: ``method=grpo,seed=0``."""

    words: tuple[str, ...]
    folder: str

    @property
    def name(self) -> str:
        return name_of(self.words)

    @property
    def setting(self) -> tuple[str, ...]:
        """The words that points of several seeds have in common."""
        return tuple(word for word in self.words if not word.startswith("seed="))

    @property
    def but_for_the_seed(self) -> str:
        """The name that points of several seeds have in common."""
        return name_of(self.setting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a point ended; ``exit_code`` is the run's own, negative for a signal."""

    state: str = UNFINISHED
    exit_code: int = 0
    message: str = ""
    seconds: float = 0.0

    @property
    def is_failure(self) -> bool:
        return self.state in (FAILED, REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRecord:
    common: tuple[str, ...]
    points: tuple[Point, ...]


def read_sweep(folder: Path) -> SweepRecord:
    """Raises DataError for what is not one."""
    file = folder / SWEEP
    try:
        record = json.loads(file.read_bytes())
        if record["format"] != FORMAT:
            raise DataError(f"{file} has format {record['format']!r}, this version reads {FORMAT}")
        points = [
            Point(words=_words(point["words"]), folder=str(point["folder"])) for point in record["points"]
        ]
        if any(Path(point.folder).name != point.folder for point in points):
            raise DataError(f"{file} names a folder outside the sweep; it was changed by something else")
        return SweepRecord(common=_words(record["common"]), points=tuple(points))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); restore it, or sweep into another sweep.dir"
        ) from error


def _words(words: object) -> tuple[str, ...]:
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"expected a list of words, got {str(words)[:40]}")
    return tuple(words)


def write_sweep(folder: Path, common: Sequence[str], points: Sequence[Point]) -> None:
    listed = [{"name": point.name, "folder": point.folder, "words": point.words} for point in points]
    record = {"format": FORMAT, "common": list(common), "points": listed}
    replace_file(folder / SWEEP, json.dumps(record, indent=2) + "\n")


def read_outcome(folder: Path) -> Outcome:
    """Of one point; what was never written or cannot be read is unfinished, and will be run or resumed."""
    try:
        record = json.loads((folder / OUTCOME).read_bytes())
        return Outcome(
            state=str(record["state"]),
            exit_code=int(record["exit_code"]),
            message=str(record["message"]),
            seconds=float(record["seconds"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Outcome()


def write_outcome(folder: Path, outcome: Outcome) -> None:
    replace_file(folder / OUTCOME, json.dumps(asdict(outcome), indent=2) + "\n")
