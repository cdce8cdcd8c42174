"""One number for accuracy and length together, as papers on short reasoning report it.

Accuracies of a model and its base share a unit (per cent or fraction), lengths are mean tokens. None where
a measure is not defined: it says nothing of a model longer than its base, or of a base at 0.
"""

from __future__ import annotations

import math


def length_adjusted_accuracy(accuracy: float, length: float, base_length: float) -> float | None:
    """L-Acc, ``accuracy sqrt(1 - length / base_length)`` (EGRC, arXiv:2511.14258); higher is better."""
    left = _share_saved(length, base_length)
    return None if left is None else accuracy * math.sqrt(left)


def normalized_accuracy_gap(
    accuracy: float, base_accuracy: float, length: float, base_length: float
) -> float | None:
    """NAG, ``100 (1 - accuracy / base) / sqrt(1 - length / base)`` (CEEH, arXiv:2602.22642, eq. 17).

    Lower is better. The paper's Table 3 follows this form, its Table 1 the other one.
    """
    left = _share_saved(length, base_length)
    if not left or base_accuracy == 0:
        return None
    return 100.0 * (1.0 - accuracy / base_accuracy) / math.sqrt(left)


def normalized_accuracy_gap_table1(
    accuracy: float, base_accuracy: float, length: float, base_length: float
) -> float | None:
    """NAG as the numbers of CEEH's Table 1 were made: times the root where eq. 17 divides by it."""
    left = _share_saved(length, base_length)
    if left is None or base_accuracy == 0:
        return None
    return 100.0 * (1.0 - accuracy / base_accuracy) * math.sqrt(left)


def accuracy_efficiency_score(
    accuracy: float, base_accuracy: float, length: float, base_length: float
) -> float | None:
    """AES, ``(base - length) / base + 5 (accuracy - base) / base``; higher is better.

    Inferred from ETR's table (arXiv:2604.05355), whose rows it gives to rounding; elsewhere gains in
    accuracy often count 3 and losses 5.
    """
    if base_accuracy == 0 or base_length == 0:
        return None
    return (base_length - length) / base_length + 5.0 * (accuracy - base_accuracy) / base_accuracy


def _share_saved(length: float, base_length: float) -> float | None:
    return 1.0 - length / base_length if base_length > 0 and length <= base_length else None
