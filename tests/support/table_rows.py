"""Tables of a run that never was, every number known: two responses a step, one right and one wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from megaent.report.tables import FOLDER, rows, write_part

LENGTH = 10
TEXTS = ("a", " b", "\n", "<i>", "")


def entropy_of(step: int, position: int, *, correct: bool) -> float:
    """Falls with the step, rises along the response, and is twice as high in a wrong one."""
    return (1 + position / LENGTH) * (1 if correct else 2) / (1 + step)


def covariance_of(step: int, position: int) -> float:
    return step * (100.0 if position == 0 else 0.5)


def write_tables(
    run: Path, *, steps: int, texts: Sequence[str] = TEXTS, prompt: str = "how much?", segments: bool = False
) -> None:
    """In two parts a table."""
    for numbers in (range(1, steps // 2 + 1), range(steps // 2 + 1, steps + 1)):
        for name, columns in _columns(list(numbers), texts, prompt, segments).items():
            write_part(run / FOLDER / name, rows(name, columns))


def _columns(
    steps: Sequence[int], texts: Sequence[str], prompt: str, segments: bool
) -> dict[str, dict[str, list]]:
    pairs = [(step, correct) for step in steps for correct in (True, False)]
    places = [(step, correct, position) for step, correct in pairs for position in range(LENGTH)]
    means = {correct: [_mean_entropy(step, correct=correct) for step in steps] for correct in (True, False)}
    count = len(steps)
    return {
        "steps": {"step": list(steps), "metric": ["loss"] * count, "value": [1.0 / step for step in steps]},
        "entropy": {
            "step": [step for step in steps for _ in range(2)],
            "low": [0.0, 0.5] * count,
            "high": [0.5, 1.0] * count,
            "tokens": [number for step in steps for number in (step, 10)],
        },
        "groups": {
            "step": list(steps),
            "place": [0] * count,
            "prompt_id": ["p"] * count,
            "split": [""] * count,
            "responses": [2] * count,
            "correct": [step % 3 for step in steps],  # none, one, both
            "truncated": [0] * count,
            "reward": [0.5] * count,
            "length": [float(LENGTH)] * count,
            "entropy": [(one + other) / 2 for one, other in zip(means[True], means[False], strict=True)],
            "entropy_correct": means[True],
            "entropy_incorrect": [
                None if step == 1 else mean for step, mean in zip(steps, means[False], strict=True)
            ],
            "advantage_abs": [1.0] * count,
        },
        "responses": {
            "step": [step for step, _ in pairs],
            "prompt_id": ["p"] * len(pairs),
            "response": [int(not correct) for _, correct in pairs],
            "prompt": [prompt] * len(pairs),
            "answer": ["4"] * len(pairs),
            "split": [""] * len(pairs),
            "reward": [float(correct) for _, correct in pairs],
            "correct": [correct for _, correct in pairs],
            "truncated": [False] * len(pairs),
            "length": [LENGTH] * len(pairs),
        },
        "tokens": _token_columns(places, texts, segments),
    }


def _token_columns(
    places: Sequence[tuple[int, bool, int]], texts: Sequence[str], segments: bool
) -> dict[str, list]:
    kinds = ("high", "unique", "shared", "own_kind")
    return {
        "step": [step for step, _, _ in places],
        "prompt_id": ["p"] * len(places),
        "response": [int(not correct) for _, correct, _ in places],
        "position": [position for _, _, position in places],
        "token": [position % len(texts) for _, _, position in places],
        "text": [texts[position % len(texts)] for _, _, position in places],
        "correct": [correct for _, correct, _ in places],
        "mask": [position != LENGTH - 1 for _, _, position in places],
        "entropy": [entropy_of(step, position, correct=correct) for step, correct, position in places],
        "log_prob": [-0.25 * (1 + position) for _, _, position in places],
        "log_prob_engine": [-0.25 * (1 + position) for _, _, position in places],
        "advantage": [1.0 if correct else -1.0 for _, correct, _ in places],
        "weight": [float(position % 2) for _, _, position in places],
        "penalty": [float(position == 0) for _, _, position in places],
        "covariance": [covariance_of(step, position) for step, _, position in places],
        "segment": [kinds[position % 4] if segments else None for _, _, position in places],
    }


def _mean_entropy(step: int, *, correct: bool) -> float:
    return math.fsum(entropy_of(step, place, correct=correct) for place in range(LENGTH - 1)) / (LENGTH - 1)
