"""What a sequence costs the trainer: a linear part by the token, and attention's by pairs of tokens.

One unit is a floating-point operation of a forward pass; a backward pass costs twice as many and
recomputation once more, so that shares and ratios are the same. Whole numbers: every rank comes to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Operations of one forward pass over the whole model; padding is not counted."""

    per_token: int  # that is read: projections and feed-forward parts of every layer
    per_prediction: int  # of a response token: the output head
    per_pair: int  # of a token and one that it attends to, itself included
    shares_prompts: bool = False  # a group's prompt is read once (decision 20)

    def of_group(self, prompt: int, lengths: Sequence[int]) -> int:
        """Responses of ``lengths`` tokens to a prompt of ``prompt`` tokens, in one pack.

        The last token of a response is predicted and never read; a response without tokens costs nothing.
        """
        read = [length - 1 for length in lengths if length]
        if not read:
            return 0
        if self.shares_prompts:
            tokens = prompt + sum(read)
            pairs = _causal(prompt) + sum(tail * prompt + _causal(tail) for tail in read)
        else:
            tokens = sum(prompt + tail for tail in read)
            pairs = sum(_causal(prompt + tail) for tail in read)
        return self.per_token * tokens + self.per_prediction * sum(lengths) + self.per_pair * pairs


def _causal(tokens: int) -> int:
    """Pairs in a sequence in which each token attends to itself and to those before it."""
    return tokens * (tokens + 1) // 2
