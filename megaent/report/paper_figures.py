"""Figures that papers on entropy show of their runs, of this one: numbers alone, drawn by the observatory.

Early and late are the first and the last fifth of the steps.
"""

from __future__ import annotations

import numpy as np

from megaent.report.observatory import LEAST_TOKENS, RunTables, early_and_late, trained, windows
from megaent.report.svg import Line

BINS = 19
"""Equal in the number of tokens; of 20 points a trend would be drawn."""
TENTHS = 10
_PLACES = 19  # lengths; of 20 points a trend would be drawn


def gradient_by_entropy(run: RunTables) -> list[Line]:
    """How far the policy term moves a drawn token's own logit, by the token's entropy.

    ``d(-A w log p) / dz = -A w (1 - p)`` of the token's own logit z, in absolute value; A, w and p are those
    of the step's beginning, where the ratio is 1.
    """
    table = trained(run, "step", "entropy", "advantage", "weight", "log_prob")
    step, entropy = table["step"].to_numpy(), table["entropy"].to_numpy().astype(float)
    advantage, weight, log_prob = (
        table[name].to_numpy().astype(float) for name in ("advantage", "weight", "log_prob")
    )
    size = np.abs(advantage * weight * -np.expm1(log_prob))
    return [
        line
        for label, mask in early_and_late(step)
        if (line := _binned(label, entropy[mask], size[mask])).steps
    ]


def length_distribution(run: RunTables) -> list[Line]:
    """Share of the sampled responses of at most so many tokens (CEEH, figure 5)."""
    table = run.tables["responses"]
    step, length = table["step"].to_numpy(), table["length"].to_numpy()
    if not length.size:
        return []
    places = np.unique(np.quantile(length, np.linspace(0, 1, _PLACES), method="higher"))
    return [
        Line(
            label=label,
            steps=places.astype(float).tolist(),
            values=[float((length[mask] <= place).mean()) for place in places],
        )
        for label, mask in early_and_late(step)
    ]


def accuracy_over_length(run: RunTables) -> list[Line]:
    """Means over a tenth of the steps each, joined in their order (CEEH, figure 1)."""
    table = run.tables["groups"]
    step, responses = table["step"].to_numpy(), table["responses"].to_numpy()
    right, tokens = table["correct"].to_numpy(), table["length"].to_numpy() * responses
    lengths, accuracies = [], []
    for low, high in windows(step, TENTHS):
        inside = (step >= low) & (step < high)
        if count := responses[inside].sum():
            lengths.append(float(tokens[inside].sum() / count))
            accuracies.append(float(right[inside].sum() / count))
    if len(lengths) < 2:
        return []
    return [Line(label="from the first step to the last", steps=lengths, values=accuracies)]


def entropy_along(run: RunTables) -> list[Line]:
    """Late, by tenths of the response and correctness: whether entropy falls on the way (as ETR asks).

    Where ETR cuts a response into steps at a text, tenths are the same for every task. Tokens that the
    table left out count to no tenth.
    """
    lengths = _lengths(run)
    table = trained(run, "step", "prompt_id", "response", "position", "correct", "entropy")
    step = table["step"].to_numpy()
    late = [mask for label, mask in early_and_late(step) if label.startswith("last")]
    if not late:
        return []
    table = table.filter(late[0])
    names = zip(*(table[name].to_pylist() for name in ("step", "prompt_id", "response")), strict=True)
    length = np.array([lengths.get(name, 0) for name in names])
    place = TENTHS * table["position"].to_numpy() // np.maximum(length, 1)
    is_right, entropy = table["correct"].to_numpy(), table["entropy"].to_numpy().astype(float)
    kinds = {"correct responses": is_right, "incorrect responses": ~is_right}
    known = {label: mask & (length > 0) for label, mask in kinds.items()}
    lines = [_by_tenth(label, place[mask], entropy[mask]) for label, mask in known.items()]
    return [line for line in lines if line.steps]


def _lengths(run: RunTables) -> dict[tuple[int, str, int], int]:
    table = run.tables["responses"]
    columns = (table[name].to_pylist() for name in ("step", "prompt_id", "response", "length"))
    return {(step, prompt, response): length for step, prompt, response, length in zip(*columns, strict=True)}


def _binned(label: str, x: np.ndarray, y: np.ndarray) -> Line:
    """Means of both over bins of equally many, from the lowest x up."""
    order = np.argsort(x, kind="stable")
    count = min(BINS, x.size // LEAST_TOKENS)
    parts = [(x[part], y[part]) for part in np.array_split(order, count)] if count else []
    return Line(
        label=label,
        steps=[float(mine.mean()) for mine, _ in parts],
        values=[float(theirs.mean()) for _, theirs in parts],
    )


def _by_tenth(label: str, place: np.ndarray, entropy: np.ndarray) -> Line:
    there = [tenth for tenth in range(TENTHS) if (place == tenth).sum() >= LEAST_TOKENS]
    return Line(
        label=label,
        steps=[(tenth + 0.5) / TENTHS for tenth in there],
        values=[float(entropy[place == tenth].mean()) for tenth in there],
    )
