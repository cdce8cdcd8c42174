"""Responses with every token coloured by one of its numbers, with a slider over the steps.

The page holds the numbers as JSON, which is no script, rounded to three digits and within ``MOST_BYTES``;
heat_map.js shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from megaent.report.observatory import RunTables
from megaent.report.page import Section, paragraph

if TYPE_CHECKING:
    import pyarrow as pa

MOST_BYTES = 1_500_000
MOST_STEPS = 24
MOST_RESPONSES = 4
"""Of a step: those that are right and those that are wrong in turn."""
MOST_TOKENS = 400
"""Of a response."""

NUMBERS = ("entropy", "advantage", "weight", "log_prob", "penalty", "covariance")
_PROMPT = 600  # characters
_WITHOUT_SCRIPTS = (
    "<noscript><p>A script shows the tokens, and scripts are switched off here; docs/tables.md says how to "
    "read them from the run's tables.</p></noscript>"
)


def heat_map_section(runs: Mapping[str, RunTables]) -> list[Section]:
    """[] where no run has tokens."""
    shown = {name: run for name, run in runs.items() if run.tables["tokens"].num_rows}
    if not shown:
        return []
    data, num_steps = _within(shown)
    about = paragraph(
        f"Responses that the tables hold: up to {num_steps} steps a run, {MOST_RESPONSES} responses a step "
        f"and {MOST_TOKENS} tokens a response. Arrow keys move from token to token, Home and End to the ends."
    )
    return [
        Section(
            heading="Tokens",
            parts=(
                about,
                _WITHOUT_SCRIPTS,
                f'<script type="application/json" id="heat-data">{data}</script>',
                '<div id="heat-map"></div>',
            ),
            script=_text("heat_map.js"),
            style=_text("heat_map.css"),
        )
    ]


def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _within(runs: Mapping[str, RunTables]) -> tuple[str, int]:
    """As many steps as the limit has room for."""
    for num_steps in (MOST_STEPS, 12, 6, 3, 1):
        data = _json({name: _steps(run, num_steps) for name, run in runs.items()})
        if len(data) <= MOST_BYTES or num_steps == 1:
            return data, num_steps
    raise AssertionError("one step is always shown")


def _json(runs: Mapping[str, Any]) -> str:
    """In a form that cannot end the element that it stands in."""
    record = {"runs": [{"name": name, "steps": steps} for name, steps in runs.items()]}
    return json.dumps(record, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _steps(run: RunTables, count: int) -> list[dict[str, Any]]:
    tokens, responses = run.tables["tokens"], run.tables["responses"]
    steps = np.unique(tokens["step"].to_numpy())
    chosen = np.unique(steps[np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int)])
    return [_step(step, _of_step(tokens, step), _of_step(responses, step)) for step in chosen.tolist()]


def _of_step(table: pa.Table, step: int) -> pa.Table:
    return table.filter(table["step"].to_numpy() == step)


def _step(step: int, tokens: pa.Table, responses: pa.Table) -> dict[str, Any]:
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in tokens.to_pylist():
        rows.setdefault((row["prompt_id"], row["response"]), []).append(row)
    about = {(row["prompt_id"], row["response"]): row for row in responses.to_pylist()}
    chosen = _in_turn([about[key] for key in rows if key in about])[:MOST_RESPONSES]
    shown = [_response(row, rows[row["prompt_id"], row["response"]]) for row in chosen]
    return {"step": step, "responses": shown}


def _in_turn(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Right, wrong, right, …, then what is left."""
    kinds = [[row for row in rows if row["correct"] is is_right] for is_right in (True, False)]
    return [kind[place] for place in range(len(rows)) for kind in kinds if place < len(kind)]


def _response(about: Mapping[str, Any], tokens: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tokens = sorted(tokens, key=lambda row: row["position"])[:MOST_TOKENS]
    segments = [row["segment"] for row in tokens]
    return {
        "prompt": about["prompt"][:_PROMPT],
        "answer": about["answer"][:_PROMPT],
        "reward": _short(about["reward"]),
        "correct": about["correct"],
        "length": about["length"],
        "text": [row["text"] for row in tokens],
        "mask": [int(row["mask"]) for row in tokens],
        **{name: [_short(row[name]) for row in tokens] for name in NUMBERS},
        **({"segment": segments} if any(segments) else {}),
    }


def _short(value: float | None) -> float | None:
    """Three digits; what is no number is none."""
    return float(f"{value:.3g}") if value is not None and np.isfinite(value) else None
