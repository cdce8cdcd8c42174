"""Items of reasoning-gym and verdicts on answers to them, from a sandbox in which the package is loaded.

Some items depend on the order of Python's sets, so they are drawn where that is fixed (``PYTHONHASHSEED=0``)
and drawn there again to be judged. The package reads files, so the sandbox has no namespaces; the answers
that it gets are such that none is needed (``answers.is_safe``).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from typing import NamedTuple

from megaent.errors import ConfigError, DataError, MissingDependency
from megaent.puzzles.answers import LONGEST, is_safe
from megaent.sandbox.limits import Limits
from megaent.sandbox.pool import Job, Outcome, Sandbox
from megaent.sandbox.values import value_of

_PROGRAM = "from megaent.puzzles.inside import draw, judge"
_CHUNK = 50  # items a job
_DRAWING = Limits(cpu_s=120.0, wall_s=600.0, memory_mib=4096, output_bytes=1 << 26)
_JUDGING = Limits(cpu_s=20.0, wall_s=120.0, memory_mib=4096)


class Item(NamedTuple):
    """What a prompt's key says, in JSON."""

    task: str
    level: int
    size: int
    index: int
    question: str
    answer: str | None  # one right answer, where the task states one

    @property
    def key(self) -> str:
        return json.dumps(self._asdict(), ensure_ascii=False)


class Judged(NamedTuple):
    correct: bool
    paid: float  # by reasoning-gym, for comparison; no reward
    note: str = ""
    failure: str = ""  # of the sandbox: no verdict


class Puzzles:
    def __init__(self, *, workers: int = 2) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise MissingDependency(
                "reasoning-gym's tasks need the package reasoning-gym, which is not installed; add it by: "
                "pip install 'megaent[tasks]'"
            )
        self._sandbox = Sandbox(workers=workers, without=("namespaces",), preload=("reasoning_gym",))

    def close(self) -> None:
        self._sandbox.close()

    def draw(self, task: str, *, level: int, size: int) -> list[Item]:
        """All items of one task. Raises DataError where it cannot make them."""
        require_task(task, level)
        starts = range(0, size, _CHUNK)
        calls = [(task, level, size, start, min(_CHUNK, size - start)) for start in starts]
        jobs = [Job(source=_PROGRAM, calls=(f"draw{call!r}",), limits=_DRAWING) for call in calls]
        drawn = [pair for outcome in self._sandbox.run(jobs) for pair in _drawn(task, outcome)]
        return [Item(task, level, size, index, *pair) for index, pair in enumerate(drawn)]

    def judge(self, cases: Sequence[tuple[Item, str]]) -> list[Judged]:
        """One verdict for each answer to an item."""
        given = [place for place, (item, answer) in enumerate(cases) if _may_be_judged(item, answer)]
        jobs = [_judging(*cases[place]) for place in given]
        judged = dict(zip(given, map(_judged, self._sandbox.run(jobs)), strict=True))
        return [
            judged.get(place) or Judged(False, 0.0, "no answer of this task") for place in range(len(cases))
        ]


def require_task(task: str, level: int) -> None:
    """Raises ConfigError for a task or a difficulty that there is not. Loads reasoning-gym."""
    from reasoning_gym.factory import CURRICULA, DATASETS

    if task not in DATASETS or task == "composite":
        known = ", ".join(sorted(set(DATASETS) - {"composite"}))
        raise ConfigError(f"a task of reasoning-gym must be one of {known}, got {task!r}")
    if level >= 0 and task not in CURRICULA:
        raise ConfigError(f"{task} has no levels; leave data.level at -1, its own difficulty")


def _drawn(task: str, outcome: Outcome) -> list[tuple[str, str | None]]:
    if outcome.failure or outcome.code or not outcome.values:
        why = outcome.failure or outcome.errors.strip() or f"it was stopped for {outcome.stopped_for}"
        raise DataError(f"reasoning-gym's {task} made no items: {why}; leave it out, or choose another level")
    return value_of(json.loads(outcome.values))  # type: ignore[return-value]


def _may_be_judged(item: Item, answer: str) -> bool:
    return bool(answer.strip()) and len(answer) <= LONGEST and is_safe(item.task, answer)


def _judging(item: Item, answer: str) -> Job:
    asked = (item.task, item.level, item.size, item.index, item.question, answer)
    return Job(source=_PROGRAM, calls=(f"judge{asked!r}",), limits=_JUDGING)


def _judged(outcome: Outcome) -> Judged:
    if outcome.failure:
        return Judged(False, 0.0, failure=outcome.failure)
    if outcome.stopped_for:
        return Judged(False, 0.0, "timed out")
    if not outcome.values:
        return Judged(False, 0.0, failure=outcome.errors.strip()[-200:] or f"ended with code {outcome.code}")
    correct, paid, error = value_of(json.loads(outcome.values))  # type: ignore[misc]
    return Judged(correct, paid, f"answer not understood: {error}" if error else "")
