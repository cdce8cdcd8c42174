"""A collapse of entropy foretold: a line through the logarithm of its last steps, drawn on.

Window, horizon and patience were chosen on half of the recorded runs and judged on the other
(``benchmarks/forecast.py``; docs/watching.md has the result).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FITTED = 30  # steps that a line is put through
HORIZON = 20  # steps from its end in which it must reach the limit
PATIENCE = 3  # steps in a row that must say so
TREND = FITTED + PATIENCE - 1
_LEAST = 1e-6  # nats, of a logarithm


def falls_soon(
    values: Sequence[float], limit: float, *, horizon: int = HORIZON, patience: int = PATIENCE
) -> bool:
    """Whether a line through each of the last ``patience`` windows of ``values``, nats, falls from above
    ``limit`` to it within ``horizon`` steps."""
    fitted = len(values) - patience + 1
    windows = [values[start : start + fitted] for start in range(patience)]
    return all(reaches(window, limit, horizon) for window in windows)


def reaches(values: Sequence[float], limit: float, horizon: int) -> bool:
    """Of one window: by least squares over the logarithm."""
    logs = [math.log(max(value, _LEAST)) for value in values]
    middle, mean = (len(logs) - 1) / 2, sum(logs) / len(logs)
    slope = sum((place - middle) * (log - mean) for place, log in enumerate(logs))
    slope /= sum((place - middle) ** 2 for place in range(len(logs)))
    left = mean + slope * middle - math.log(max(limit, _LEAST))
    return slope < 0 < left <= -slope * horizon
