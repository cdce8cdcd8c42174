"""All settings of a sweep at once: a scale for every choice and every measure, a line for every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megaent.report.beside import figure
from megaent.report.page import table, wide
from megaent.report.svg import Frame, Scale, parallel_chart
from megaent.report.sweep_table import FORMS, Row, show

_UNITS = {"accuracy": "accuracy", "length": "length, tokens", "entropy": "entropy, nats"}
_LONGEST = 14  # letters of a value on a scale


def parallel_coordinates(numbered: Sequence[tuple[str, Row]], choices: Mapping[str, Sequence[str]]) -> str:
    """A figure; "" where a single line would be drawn. A row that lacks one of the measures is left out.

    ``choices``: of every key that is chosen, its value in each row.
    """
    names, rows = [name for name, _ in numbered], [row for _, row in numbered]
    measured = [number for number, row in enumerate(rows) if row.means.keys() >= FORMS.keys()]
    if len(measured) < 2:
        return ""
    ranked = sorted(measured, key=lambda number: -rows[number].means["accuracy"].value)
    chosen = {key: [values[number] for number in ranked] for key, values in choices.items()}
    means = {name: [rows[number].means[name].value for number in ranked] for name in FORMS}
    scales = [
        *(_of_choice(key, values) for key, values in chosen.items()),
        *(_of_measure(name, values) for name, values in means.items()),
    ]
    places = [*map(_places_of_choice, chosen.values()), *map(_places_of_measure, means.values())]
    title = "Every setting at once"
    best = rows[ranked[0]].name
    words = f"{len(ranked)} settings over {', '.join(scale.name for scale in scales)}; fuller is {best}."
    chart = parallel_chart(
        Frame(name="parallel", title=title, unit="", words=words, across=""),
        scales,
        list(zip(*places, strict=True)),
    )
    numbers = [
        [
            names[number],
            *(values[number] for values in choices.values()),
            *(show(rows[number].means[name], form) for name, form in FORMS.items()),
        ]
        for number in ranked
    ]
    caption = f"{title}, the most accurate first"
    svg = wide(chart, label=f"{title}, a picture")
    return figure(title, svg, table(("no.", *choices, *_UNITS.values()), numbers, caption=caption))


def _places_of_choice(values: Sequence[str]) -> list[float]:
    """Evenly from bottom to top, numbers by their size and words by the alphabet."""
    order = _ordered(values)
    return [_share(order.index(value), len(order) - 1) for value in values]


def _ordered(values: Sequence[str]) -> list[str]:
    try:
        return sorted(set(values), key=float)
    except ValueError:
        return sorted(set(values))


def _places_of_measure(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [_share(value - low, high - low) for value in values]


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.5


def _of_choice(key: str, values: Sequence[str]) -> Scale:
    order = _ordered(values)
    ticks = [(_share(place, len(order) - 1), value[:_LONGEST]) for place, value in enumerate(order)]
    return Scale(key.rpartition(".")[2], ticks)


def _of_measure(name: str, values: Sequence[float]) -> Scale:
    low, high, form = min(values), max(values), FORMS[name]
    ends = [(0.0, form.format(low)), (1.0, form.format(high))] if high > low else [(0.5, form.format(low))]
    return Scale(_UNITS[name], ends)
