"""What a run's tables say of its entropy, as numbers: when, where, on which tokens, under which weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from megaent.report.svg import Cell, Line
from megaent.report.tables import TABLES, read_table

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 48
"""Windows of steps in a picture."""
MOST_PLACES = 60
"""Windows of positions."""
LEAST_TOKENS = 5
"""That a mean is taken over, where single tokens or places are compared."""
TAIL = 0.02
"""Share of the tokens that is called the tail of the covariance."""
LATE = 0.2
"""Share of the steps, at the end, that tokens are compared over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTables:
    """A run's tables in memory."""

    tables: Mapping[str, pa.Table]
    notes: list[str] = field(default_factory=list)

    @property
    def has_rows(self) -> bool:
        return any(table.num_rows for table in self.tables.values())


class TokenMean(NamedTuple):
    text: str
    count: int
    entropy: float
    advantage: float


class Fifth(NamedTuple):
    """The tokens between two fifths of the entropy."""

    entropy: float
    advantage_abs: float
    weight: float
    silenced: float  # share of weight 0
    penalised: float  # share of penalty above 0
    covariance: float


def read_tables(run: Path) -> RunTables:
    found = {name: read_table(run, name) for name in TABLES}
    return RunTables(
        tables={name: one.rows for name, one in found.items()},
        notes=[note for one in found.values() for note in one.notes],
    )


def windows(steps: np.ndarray, count: int = MOST_COLUMNS) -> list[tuple[float, float]]:
    """At most ``count`` half-open windows, equal in steps, over those that are there."""
    if not steps.size:
        return []
    first, last = int(steps.min()), int(steps.max()) + 1
    edges = np.unique(np.linspace(first, last, min(count, last - first) + 1).round())
    return [(float(low), float(high)) for low, high in pairwise(edges)]


# ---------------------------------------------------------------- over the steps


def histogram(run: RunTables) -> list[Cell]:
    """Cells of steps and entropy with their share of the window's tokens."""
    table = run.tables["entropy"]
    step, low, high, tokens = (table[name].to_numpy() for name in ("step", "low", "high", "tokens"))
    cells = []
    for left, right in windows(step):
        inside = (step >= left) & (step < right)
        edges, place = np.unique(low[inside], return_inverse=True)
        tops = np.unique(high[inside])
        counts = np.bincount(place, weights=tokens[inside])
        cells += [
            Cell(left, right, float(bottom), float(top), float(share))
            for bottom, top, share in zip(edges, tops, counts / counts.sum(), strict=True)
        ]
    return cells


def by_correctness(run: RunTables) -> list[Line]:
    table = run.tables["groups"]
    names = {"correct responses": "entropy_correct", "incorrect responses": "entropy_incorrect"}
    return [
        line
        for label, column in names.items()
        if (line := _over_steps(label, table, lambda part, column=column: part[column].to_numpy()))
    ]


def by_difficulty(run: RunTables) -> list[Line]:
    """Of groups by how many of their responses are right."""
    table = run.tables["groups"]
    right = table["correct"].to_numpy() / np.maximum(table["responses"].to_numpy(), 1)
    kinds = {"none right": right == 0, "some right": (right > 0) & (right < 1), "all right": right == 1}
    lines = [
        _over_steps(label, table.filter(mask), lambda part: part["entropy"].to_numpy())
        for label, mask in kinds.items()
    ]
    return [line for line in lines if line is not None]


def segment_shares(run: RunTables) -> list[Line]:
    """Of the trained tokens, by the class the method gave them; [] for a method without classes."""
    table = trained(run, "step", "segment")
    table = table.filter(table["segment"].is_valid())
    names = sorted(table["segment"].unique().to_pylist())
    segment = np.asarray(table["segment"].to_pylist(), dtype=object)
    step = table["step"].to_numpy()
    return [_means(name, step, (segment == name).astype(float)) for name in names]


def covariance_tail(run: RunTables) -> list[Line]:
    """Means over windows of steps: of all trained tokens, and of the highest ``TAIL`` of them."""
    table = trained(run, "step", "covariance")
    step, value = table["step"].to_numpy(), table["covariance"].to_numpy().astype(float)
    spans = [(low, high) for low, high in windows(step, 24) if ((step >= low) & (step < high)).any()]
    parts = [np.sort(value[(step >= low) & (step < high)]) for low, high in spans]
    middles = [(low + high - 1) / 2 for low, high in spans]
    tails = [float(part[-max(1, round(TAIL * part.size)) :].mean()) for part in parts]
    if not parts:
        return []
    return [
        Line(label=f"highest {TAIL:.0%}", steps=middles, values=tails),
        Line(label="all tokens", steps=middles, values=[float(part.mean()) for part in parts]),
    ]


def _over_steps(label: str, table: pa.Table, value: Callable[[pa.Table], np.ndarray]) -> Line | None:
    values = value(table).astype(float)
    is_there = np.isfinite(values)
    if not is_there.any():
        return None
    return _means(label, table["step"].to_numpy()[is_there], values[is_there])


def _means(label: str, step: np.ndarray, value: np.ndarray) -> Line:
    steps, place = np.unique(step, return_inverse=True)
    means = np.bincount(place, weights=value) / np.bincount(place)
    return Line(label=label, steps=steps.astype(float).tolist(), values=means.tolist())


# ---------------------------------------------------------------- over the tokens


def by_position(run: RunTables) -> list[Line]:
    """Mean entropy by place in the response, in the first fifth of the steps and in the last."""
    table = trained(run, "step", "position", "entropy")
    step, place = table["step"].to_numpy(), table["position"].to_numpy()
    entropy = table["entropy"].to_numpy().astype(float)
    lines = [_by_place(label, place[mask], entropy[mask]) for label, mask in early_and_late(step)]
    return [line for line in lines if line.steps]


def early_and_late(step: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Which rows are of the first and of the last fifth of the steps; nothing where there is no step."""
    if step.size:
        share = (step - step.min()) / max(step.max() - step.min(), 1)
        yield "first fifth of the steps", share <= LATE
        if step.max() > step.min():
            yield "last fifth", share >= 1 - LATE


def _by_place(label: str, place: np.ndarray, entropy: np.ndarray) -> Line:
    places, means = [], []
    for low, high in windows(place, MOST_PLACES):
        inside = entropy[(place >= low) & (place < high)]
        if inside.size >= LEAST_TOKENS:
            places.append((low + high - 1) / 2)
            means.append(float(inside.mean()))
    return Line(label=label, steps=places, values=means)


def ranked_tokens(run: RunTables, count: int) -> tuple[list[TokenMean], list[TokenMean]]:
    """The texts of highest and of lowest mean entropy over the last fifth of the steps, without overlap."""
    wanted = [("entropy", "mean"), ("entropy", "count"), ("advantage", "mean")]
    found = _late(trained(run, "step", "text", "entropy", "advantage")).group_by("text").aggregate(wanted)
    means = [
        TokenMean(row["text"], row["entropy_count"], row["entropy_mean"], row["advantage_mean"])
        for row in found.to_pylist()
        if row["entropy_count"] >= LEAST_TOKENS
    ]
    means.sort(key=lambda mean: (-mean.entropy, mean.text))
    count = min(count, len(means) // 2) or len(means)
    return means[:count], means[count:][::-1][:count]


def fifths(run: RunTables) -> list[Fifth]:
    """The trained tokens of the last fifth of the steps, in five equal parts from the lowest entropy up."""
    names = ("entropy", "advantage", "weight", "penalty", "covariance")
    table = _late(trained(run, "step", *names))
    order = np.argsort(table["entropy"].to_numpy(), kind="stable")
    columns = [table[name].to_numpy().astype(float)[order] for name in names]
    parts = zip(*(np.array_split(column, 5) for column in columns), strict=True)
    return [
        Fifth(
            entropy=float(entropy.mean()),
            advantage_abs=float(np.abs(advantage).mean()),
            weight=float(weight.mean()),
            silenced=float((weight == 0).mean()),
            penalised=float((penalty > 0).mean()),
            covariance=float(covariance.mean()),
        )
        for entropy, advantage, weight, penalty, covariance in parts
        if entropy.size
    ]


def trained(run: RunTables, *columns: str) -> pa.Table:
    """These columns of the tokens that are learnt from."""
    table = run.tables["tokens"]
    return table.select(columns).filter(table["mask"])


def _late(table: pa.Table) -> pa.Table:
    step = table["step"].to_numpy()
    if not step.size:
        return table
    first = step.max() - LATE * (step.max() - step.min())
    return table.filter(step >= first)
