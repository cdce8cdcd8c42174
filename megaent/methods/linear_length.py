"""Linear length: every token costs the same, whatever the prompt and the answer.

    r <- r - coef * T / max_length

The naive length penalty that others are measured against; compare Arora and Zanette 2025,
arXiv:2502.04463, who compare a response with its correct siblings alone. Wrong responses pay too, so
where no response of a group is right, the shortest wrong one is praised. ``only_correct`` spares them.

Departures: none, there is no paper to depart from. ``max_length`` is in tokens; set it to the longest
response allowed. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.compose import Part
from megaent.objective.length_rewards import LinearLength

NEUTRAL = ({"coef": 0.0}, {"grpo": {}})
"""Options under which the method teaches what another one does, bit for bit."""


def linear_length(*, coef: float = 0.1, max_length: int = 4096, only_correct: bool = False) -> Part:
    """``coef`` is what a response of ``max_length`` tokens pays."""
    return Part(rewards=(LinearLength(coef=coef, max_length=max_length, only_correct=only_correct),))
