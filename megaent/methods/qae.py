"""QAE: the group's baseline is a quantile, so only the rare outcome of a group teaches.

Wu et al. 2025, "Quantile Advantage Estimation for Entropy-Safe Reasoning", arXiv:2509.22611:

    A = (r - K-quantile of the group) / (std of the group + eps)

With rewards 0 and 1 the baseline is 0 where at most 1 - K of the responses are right (only successes
teach) and 1 above (only failures do).

Departures: we know the abstract alone. K = 0.4 and the division by the sample deviation are our reading;
``normalize=False`` leaves the division out. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.advantages import QuantileBaseline
from megaent.objective.compose import Part


def qae(*, quantile: float = 0.4, normalize: bool = True) -> Part:
    """``quantile`` is the paper's K."""
    return Part(advantage=QuantileBaseline(quantile=quantile, normalize=normalize))
