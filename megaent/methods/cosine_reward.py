"""Cosine reward: a short right answer is best, a short wrong one is worst.

Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs", arXiv:2502.03373, and the
authors' code. Over the length of the response, half a cosine runs from

    correct   correct_short (0 tokens)  to  correct_long (max_length)
    wrong     wrong_short               to  wrong_long

and a response cut by the limit, or longer than ``max_length`` tokens, earns ``exceeded``.

Departures: the values are those of the authors' code, 1 to 0 and -1 to 0; the paper has other ones. Its
penalty for repeated n-grams is left out, and ``exceeded=-1``, the reward of the worst wrong answer, is
our choice.
"""

from __future__ import annotations

from megaent.objective.compose import Part
from megaent.objective.length_rewards import Cosine


def cosine_reward(
    *,
    max_length: int = 4096,
    correct_short: float = 1.0,
    correct_long: float = 0.0,
    wrong_short: float = -1.0,
    wrong_long: float = 0.0,
    exceeded: float = -1.0,
) -> Part:
    """``max_length`` in tokens; set it to the longest response allowed."""
    reward = Cosine(
        max_length=max_length,
        correct_short=correct_short,
        correct_long=correct_long,
        wrong_short=wrong_short,
        wrong_long=wrong_long,
        exceeded=exceeded,
    )
    return Part(rewards=(reward,))
