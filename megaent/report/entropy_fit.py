"""The fit of accuracy to entropy, R = -a exp(H) + b, and what it is worth.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
arXiv:2505.22617, section 2.4: entropy is traded for accuracy along this curve, which ends at H = 0 with the
ceiling b - a. They fit evaluations of one run after the other; here it is fitted to the steps of one run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

LEAST_POINTS = 20
_DRAWS = 2000
_SEED = 20505


class Fit(NamedTuple):
    """``R = -a exp(H) + b``; R a share, H in nats."""

    a: float
    b: float
    ceiling: float  # b - a, at H = 0
    low: float  # ends of the ceiling's 95 % interval
    high: float
    explained: float  # share of R's variance, R squared
    error_ahead: float  # of the second half predicted by the first, mean absolute
    error_of_last: float  # of saying for the second half what the end of the first had

    @property
    def holds(self) -> bool:
        """Accuracy rose as entropy fell, and half of its variance follows the curve."""
        return self.a > 0 and self.explained >= 0.5

    def at(self, entropy: float) -> float:
        return self.b - self.a * math.exp(entropy)


def fit_entropy(entropy: Sequence[float], accuracy: Sequence[float]) -> Fit | None:
    """By least squares over the steps, in their order; None for too few, or where the entropy never moved.

    The interval is that of a bootstrap over blocks of n^(1/2) neighbouring steps (Kuensch 1989, "The
    jackknife and the bootstrap for general stationary observations"), 2000 draws, since neighbours are alike
    and a formula for independent errors would be too sure. It knows nothing of a curve of another form.
    """
    x, y = np.exp(np.asarray(entropy, float)), np.asarray(accuracy, float)
    if len(x) < LEAST_POINTS or np.ptp(x) < 1e-9:
        return None
    a, b = _line(x, y)
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - (b - a * x)) ** 2).sum())
    low, high = np.quantile(_ceilings(x, y), (0.025, 0.975))
    return Fit(
        a=float(a),
        b=float(b),
        ceiling=float(b - a),
        low=float(low),
        high=float(high),
        explained=1 - left / spread if spread else 0.0,
        **_errors_ahead(x, y),
    )


def _line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope (negated) and intercept of least squares over the last axis."""
    mean_x, mean_y = x.mean(-1, keepdims=True), y.mean(-1, keepdims=True)
    variance = ((x - mean_x) ** 2).sum(-1)
    slope = ((x - mean_x) * (y - mean_y)).sum(-1) / np.where(variance > 0, variance, 1.0)
    return -slope, mean_y[..., 0] - slope * mean_x[..., 0]


def _ceilings(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    size = math.isqrt(len(x))
    num_blocks = -(-len(x) // size)
    starts = np.random.default_rng(_SEED).integers(0, len(x) - size + 1, (_DRAWS, num_blocks))
    chosen = (starts[..., None] + np.arange(size)).reshape(_DRAWS, -1)[:, : len(x)]
    a, b = _line(x[chosen], y[chosen])
    return b - a


def _errors_ahead(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    half = len(x) // 2
    a, b = _line(x[:half], y[:half])
    last = y[half - max(1, half // 5) : half].mean()
    return {
        "error_ahead": float(np.abs(y[half:] - (b - a * x[half:])).mean()),
        "error_of_last": float(np.abs(y[half:] - last).mean()),
    }
