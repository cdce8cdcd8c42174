"""A study: what was measured, planned and simulated, in one JSON file that grows and is continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from megaent.durable import replace_file
from megaent.errors import DataError
from megaent.plan.series import Line, series
from megaent.scale.here import Rates, machine_of, measure_here
from megaent.scale.planned import Planned, overhead_of, planned
from megaent.scale.point import Counted, Measured, count, measure
from megaent.scale.series import BASE, Series
from megaent.scale.simulated import FleetLine

FILE = "scale.json"
_VERSION = 1
Say = Callable[[str], None]


@dataclass(kw_only=True)
class Study:
    """``record`` says where and with what it was made; ``points`` are measured runs by name."""

    record: dict[str, Any]
    rates: Rates | None = None
    points: dict[str, Measured] = field(default_factory=dict)
    collectives: dict[str, Counted] = field(default_factory=dict)  # of a step, by the name of a point
    cards: dict[str, list[Line]] = field(default_factory=dict)  # plans by model
    fleet: list[FleetLine] = field(default_factory=list)  # the batch stays
    growing: list[FleetLine] = field(default_factory=list)  # the batch grows with the cards
    split: list[FleetLine] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        replace_file(folder / FILE, json.dumps({"version": _VERSION} | asdict(self), indent=1) + "\n")


def read_study(folder: Path) -> Study:
    """Raises DataError for a file that is none, or of another version."""
    path = folder / FILE
    try:
        values = json.loads(path.read_text())
        if values.pop("version") != _VERSION:
            raise DataError(f"{path} is of another version of megaent; choose another --out")
        return Study(
            record=values["record"],
            rates=Rates(**values["rates"]) if values["rates"] else None,
            points={name: Measured(**one) for name, one in values["points"].items()},
            collectives={
                name: {kind: (number, size) for kind, (number, size) in found.items()}
                for name, found in values.get("collectives", {}).items()
            },
            cards={name: [Line(**one) for one in lines] for name, lines in values["cards"].items()},
            **{name: [FleetLine(**one) for one in values[name]] for name in ("fleet", "growing", "split")},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no study of megaent scale: {error}; choose another --out") from error


# ---------------------------------------------------------------- its parts


def measure_all(
    study: Study, asked: Sequence[Series], folder: Path, *, steps: int, device: str, limit_s: float, say: Say
) -> None:
    """What is missing of the base and of ``asked``; the file is written after each run."""
    if study.rates is None:
        say("measuring products, copies and an exchange")
        study.rates = measure_here()
        study.write(folder)
    points = {point.name: point for one in asked for point in one.points.values()} | {BASE.name: BASE}
    missing = [point for name, point in points.items() if name not in study.points]
    for number, point in enumerate(missing, start=1):
        say(f"run {number} of {len(missing)}: {point.name}")
        study.points[point.name] = measure(point, folder, steps=steps, device=device, limit_s=limit_s)
        study.write(folder)
    uncounted = [point for name, point in points.items() if point.ranks > 1 and name not in study.collectives]
    for number, point in enumerate(uncounted, start=1):
        say(f"counting collectives, {number} of {len(uncounted)}: {point.name}")
        study.collectives[point.name] = count(point, folder, device=device, limit_s=limit_s)
        study.write(folder)


def plan_cards(
    study: Study, models: Sequence[str], cluster: str, cards: Sequence[int], folder: Path, say: Say
) -> None:
    for model in models:
        if model not in study.cards:
            say(f"planning {model} on {', '.join(map(str, cards))} cards")
            study.cards[model] = series(
                [f"model={model}", f"cluster={cluster}"], "gpus=" + ",".join(map(str, cards))
            )
            study.write(folder)


def plans_of(study: Study, one: Series) -> dict[int, Planned]:
    """Of the series' points, with the overhead that the base has."""
    assert study.rates is not None, "a machine's rates are measured before its runs"
    here = machine_of(study.rates)
    overhead = overhead_of(here, BASE, study.points[BASE.name])
    return {
        value: planned(here, point, study.points[point.name], overhead) for value, point in one.points.items()
    }
