"""PEAR: a right response pays for a thinking part whose entropy is above that of its answer.

Huang, Lu and Zhang 2025, "PEAR: Phase Entropy Aware Reward for Efficient Reasoning", arXiv:2510.08026. With
the token that ends the thinking part at place k of T, and H the old policy's entropy of a token:

    H_think  = mean of H over tokens 1 .. k-1;    H_answer = mean of H over tokens k+1 .. T
    P        = max(0, H_think - alpha H_answer)
    reward   = min(1, score - P)    correct
               wrong                otherwise

A response without the token is thinking throughout and its H_answer 0. The advantage is GRPO's.

The equations are from a published digest of the paper that quotes them, alpha = 1 likewise; the authors'
code was not read. Inferred: the score 1 and ``wrong`` 0 (the example call of the code's page), no KL term,
and GRPO's clip, aggregation and their defaults.

Departures: ``min(1, ...)`` stands as quoted although P is never negative.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.compose import Part
from megaent.objective.method import ReasoningSteps
from megaent.objective.phase_entropy import PhaseEntropy


def pear(
    *, alpha: float = 1.0, score: float = 1.0, wrong: float = 0.0, thinking_end: str = "</think>"
) -> Part:
    """``score`` of a right response, ``wrong`` that of any other; ``thinking_end`` ends the thinking part."""
    return Part(
        rewards=(PhaseEntropy(alpha=alpha, score=score, wrong=wrong),),
        steps=ReasoningSteps(thinking_end=thinking_end),
        suggests=Part(advantage=GroupRelative()),
    )
