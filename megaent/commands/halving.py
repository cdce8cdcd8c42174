"""``sweep.halving=3 sweep.first_steps=20``: settings of little promise are left after few steps.

Successive halving (Jamieson and Talwalkar, arXiv:1502.07943): all settings run for the first steps, one of
every ``one_of`` goes on for ``one_of`` times as many, and so on to the end. Where the paper draws rewards of
arms, a setting here is judged by the accuracy of its training prompts, the seeds of one setting together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from megaent.errors import ConfigError
from megaent.report.run_files import is_run, last_steps, read_run
from megaent.report.sweep_record import Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Halving:
    one_of: int  # settings of which one goes on, 2 or more
    first_steps: int  # before the first judgement

    def rungs(self, steps: int) -> list[int]:
        """The steps after which is judged: 20 and 60 of 100 for ``one_of=3, first_steps=20``."""
        if self.first_steps >= steps:
            raise ConfigError(
                f"sweep.first_steps={self.first_steps} leaves nothing to save: each run has {steps} steps; "
                "give fewer, or more steps="
            )
        rungs = [self.first_steps]
        while rungs[-1] * self.one_of < steps:
            rungs.append(rungs[-1] * self.one_of)
        return rungs


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """After one rung: the points that go on, and what is said of each of the others."""

    going_on: tuple[Point, ...]
    set_aside: dict[Point, str]
    words: str  # one line for a person


def read_halving(words: Sequence[str]) -> Halving | None:
    """From ``sweep.halving=`` and ``sweep.first_steps=``, which need each other. Raises ConfigError."""
    given = dict(word.split("=", 1) for word in words if is_of_halving(word))
    if not given:
        return None
    one_of, first = given.get("sweep.halving"), given.get("sweep.first_steps")
    if one_of is None or first is None:
        lacking = "sweep.halving=3" if one_of is None else "sweep.first_steps=20"
        raise ConfigError(f"{' '.join(f'{k}={v}' for k, v in given.items())} needs {lacking} beside it")
    if any(word.split("=", 1)[0] == "steps" and "," in word for word in words):
        raise ConfigError("sweep.halving judges settings after the same steps; give steps= one value")
    return Halving(
        one_of=whole("sweep.halving", one_of, least=2),
        first_steps=whole("sweep.first_steps", first, least=1),
    )


def is_of_halving(word: str) -> bool:
    return word.startswith(("sweep.halving=", "sweep.first_steps="))


def whole(name: str, value: str, *, least: int) -> int:
    """The number in ``value``. Raises ConfigError."""
    if not value.isascii() or not value.isdecimal() or int(value) < least:
        raise ConfigError(f"{name} must be a whole number from {least} on, got {value!r}")
    return int(value)


def steps_of(folder: Path, point: Point) -> int:
    """That the point has behind it."""
    run = folder / point.folder
    return len(read_run(run).metrics) if is_run(run) else 0


def judge(folder: Path, points: Sequence[Point], steps: int, *, one_of: int) -> Judgement:
    """The settings of ``points`` by what each had after ``steps``; points that did not get so far are out.

    Among equals the first in the sweep's order goes on.
    """
    settings: dict[str, list[Point]] = {}
    for point in points:
        if steps_of(folder, point) >= steps:
            settings.setdefault(point.but_for_the_seed, []).append(point)
    accuracy = {name: _accuracy(folder, seeds, steps) for name, seeds in settings.items()}
    ranked = sorted(settings, key=lambda name: -accuracy[name])
    count = math.ceil(len(ranked) / one_of)
    places = {
        name: f"accuracy {accuracy[name]:.1%} after {steps} steps, place {place} of {len(ranked)}"
        for place, name in enumerate(ranked, start=1)
    }
    best = ", ".join(f"{name} ({accuracy[name]:.1%})" for name in ranked[:count])
    return Judgement(
        going_on=tuple(point for name in ranked[:count] for point in settings[name]),
        set_aside={point: places[name] for name in ranked[count:] for point in settings[name]},
        words=f"after {steps} steps {count} of {len(ranked)} settings go on: {best}",
    )


def _accuracy(folder: Path, seeds: Sequence[Point], steps: int) -> float:
    """Mean over the seeds of the last tenth of the first ``steps``."""
    return fmean(last_steps(read_run(folder / point.folder), of=steps)["accuracy"] for point in seeds)
