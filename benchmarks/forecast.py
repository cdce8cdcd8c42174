"""How often a collapse of entropy is foretold, and how often one that is foretold comes, over recorded runs.

    python benchmarks/forecast.py [--results DIR] [--out FILE.json]

Window, horizon and patience are chosen on the runs of even seeds by F1 and judged on the others. A forecast
is right when the mean of five steps falls below a fifth of the first five's within twice the horizon.
Precision is over the forecasts whose time is over before the run is; recall over all collapses.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

from megaent.report.alarms import COLLAPSED, WINDOW
from megaent.report.forecast import falls_soon

ROOT = Path(__file__).resolve().parents[1]
WINDOWS, HORIZONS, PATIENCES = (10, 15, 20, 30), (5, 10, 20, 30, 40), (1, 3, 5)


@dataclass(frozen=True, kw_only=True)
class Settings:
    fitted: int
    horizon: int
    patience: int


@dataclass(frozen=True, kw_only=True)
class Score:
    runs: int
    collapses: int
    foretold: int  # of them
    judged: int  # forecasts whose time was over before the run was
    right: int  # of them
    lead: float  # steps from a forecast to its collapse, median

    @property
    def precision(self) -> float:
        return self.right / max(1, self.judged)

    @property
    def recall(self) -> float:
        return self.foretold / max(1, self.collapses)

    @property
    def f1(self) -> float:
        return 2 * self.precision * self.recall / max(1e-9, self.precision + self.recall)


def collapse(entropy: Sequence[float]) -> int | None:
    """The step at which the alarm of that name rings."""
    limit = COLLAPSED * fmean(entropy[:WINDOW])
    steps = range(WINDOW, len(entropy) + 1)
    return next((step for step in steps if fmean(entropy[step - WINDOW : step]) < limit), None)


def foretold(entropy: Sequence[float], settings: Settings, until: int) -> int | None:
    limit, seen = COLLAPSED * fmean(entropy[:WINDOW]), settings.fitted + settings.patience - 1
    for step in range(seen, until):
        values = entropy[step - seen : step]
        if falls_soon(values, limit, horizon=settings.horizon, patience=settings.patience):
            return step
    return None


def score(runs: Sequence[Sequence[float]], settings: Settings) -> Score:
    came = [collapse(entropy) for entropy in runs]
    told = [
        foretold(entropy, settings, step or len(entropy)) for entropy, step in zip(runs, came, strict=True)
    ]
    time = 2 * settings.horizon
    leads = [
        step - when for step, when in zip(came, told, strict=True) if step and when and step - when <= time
    ]
    judged = [
        step is not None and step - when <= time
        for entropy, step, when in zip(runs, came, told, strict=True)
        if when is not None and when + time <= len(entropy)
    ]
    return Score(
        runs=len(runs), collapses=sum(step is not None for step in came), foretold=len(leads),
        judged=len(judged), right=sum(judged), lead=median(leads or [0]),
    )  # fmt: skip


def read(folder: Path) -> tuple[list[list[float]], list[list[float]]]:
    """Entropies of the runs of even seeds, and of odd ones."""
    rows = [
        json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()
    ]
    done = [row for row in rows if len(row.get("trajectory", {}).get("entropy/mean", ())) >= 40]
    halves = [[row["trajectory"]["entropy/mean"] for row in done if row["seed"] % 2 == odd] for odd in (0, 1)]
    return halves[0], halves[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks/results/epyc-2.9ghz-2cores/methods"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/forecast/forecast.json")
    options = parser.parse_args()
    chosen_on, judged_on = read(options.results)
    tried = [
        Settings(fitted=fitted, horizon=horizon, patience=patience)
        for fitted, horizon, patience in itertools.product(WINDOWS, HORIZONS, PATIENCES)
    ]
    best = max(tried, key=lambda settings: score(chosen_on, settings).f1)
    halves = {"chosen on": score(chosen_on, best), "judged on": score(judged_on, best)}
    for name, found in halves.items():
        print(f"{name}: {found}, precision {found.precision:.2f}, recall {found.recall:.2f}")
    print(f"taken: {best}")
    told = {
        name: asdict(found) | {"precision": found.precision, "recall": found.recall}
        for name, found in halves.items()
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"settings": asdict(best)} | told, indent=1) + "\n")


if __name__ == "__main__":
    main()
