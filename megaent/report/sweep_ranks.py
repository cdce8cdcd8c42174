"""Which settings of a sweep came out best, whether another seed would say so, and how to repeat them."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence

from megaent.report.page import Cell, Section, paragraph, preformatted, table
from megaent.report.sweep_record import FINISHED
from megaent.report.sweep_table import FORMS, PointFiles, Row, numbers_of, show

_BEST = 3
_MOST_ROWS = 60


def rank_sections(
    points: Sequence[PointFiles], rows: Sequence[Row], source: str, common: Sequence[str]
) -> list[Section]:
    """[] where fewer than two settings finished."""
    numbers = {row.name: number for number, row in enumerate(rows, start=1)}
    ranked = sorted(
        (row for row in rows if "accuracy" in row.means), key=lambda row: -row.means["accuracy"].value
    )
    if len(ranked) < 2:
        return []
    seeds = sorted({word for point in points for word in point.point.words if word.startswith("seed=")})
    best = tuple(_best(ranked, common, seeds[:1]))
    sections = [Section(heading="The most accurate, and how to repeat them", parts=best)]
    by_seed = accuracies(points, source)
    if len(by_seed) > 1:
        parts = (paragraph(_agreement(by_seed)), _places(ranked, numbers, by_seed))
        sections.append(Section(heading="Would another seed choose the same", parts=parts))
    return sections


def _best(ranked: Sequence[Row], common: Sequence[str], seeds: Sequence[str]) -> list[str]:
    """Means over the seeds, and the command of one of them."""
    parts = []
    for row in ranked[:_BEST]:
        words = shlex.join([*common, *row.words, *seeds])
        what = ", ".join(f"{name} {show(row.means.get(name), form)}" for name, form in FORMS.items())
        parts += [paragraph(what), preformatted(f"megaent train {words}", label=f"The command of {row.name}")]
    return parts


def accuracies(points: Sequence[PointFiles], source: str) -> dict[str, dict[str, float]]:
    """``{seed: {setting: accuracy}}`` of the settings that finished with every seed of the sweep."""
    found: dict[str, dict[str, float]] = {}
    for point in points:
        seeds = [word for word in point.point.words if word.startswith("seed=")]
        if seeds and point.run and point.outcome.state == FINISHED:
            value = numbers_of(point.run, source).get("accuracy")
            if value is not None:
                found.setdefault(seeds[0], {})[point.point.but_for_the_seed] = value
    whole = set.intersection(*map(set, found.values())) if found else set()
    return {seed: {name: found[seed][name] for name in found[seed] if name in whole} for seed in found}


def agreement(by_seed: Mapping[str, Mapping[str, float]]) -> float | None:
    """Of all pairs of settings and of seeds, the share in which both seeds find the same one better.

    What one seed finds equal counts half, so that chance is .5. None where there is no pair.
    """
    settings = list(next(iter(by_seed.values())))
    alike = [
        0.5 + 0.5 * _sign(one[a] - one[b]) * _sign(other[a] - other[b])
        for one, other in itertools.combinations(by_seed.values(), 2)
        for a, b in itertools.combinations(settings, 2)
    ]
    return sum(alike) / len(alike) if alike else None


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _agreement(by_seed: Mapping[str, Mapping[str, float]]) -> str:
    share = agreement(by_seed)
    if share is None:
        return "Fewer than two settings finished with every seed: their order cannot be compared."
    return (
        f"Two seeds put two settings in the same order in {share:.0%} of the cases; without any difference "
        "between the settings it would be 50%."
    )


def _places(
    ranked: Sequence[Row], numbers: Mapping[str, int], by_seed: Mapping[str, Mapping[str, float]]
) -> str:
    """A row a setting, its place in each seed; equals share the better place."""
    rows: list[list[Cell]] = [
        [
            str(numbers[row.name]),
            row.name,
            show(row.means["accuracy"], FORMS["accuracy"]),
            *(_place(row.name, of_seed) for of_seed in by_seed.values()),
        ]
        for row in ranked[:_MOST_ROWS]
    ]
    more = f", the first {_MOST_ROWS} of {len(ranked)}" if len(ranked) > _MOST_ROWS else ""
    caption = f"Place by accuracy in every seed{more}; - where a seed is lacking"
    return table(("no.", "point", "accuracy", *by_seed), rows, caption=caption)


def _place(name: str, of_seed: Mapping[str, float]) -> str:
    if name not in of_seed:
        return "-"
    return str(1 + sum(value > of_seed[name] for value in of_seed.values()))
