"""A reward that pays for thinking with more entropy than the answer has: PEAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.checks import require
from megaent.objective.seen import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEntropy:
    """``min(1, score - max(0, H_think - alpha H_answer))`` if correct, else ``wrong``; replaces the reward.

    Huang, Lu and Zhang 2025, "PEAR", arXiv:2510.08026. H_think and H_answer are means of the old policy's
    entropy, nats, over the tokens before the one that ends the thinking part and over those after it; 0 over
    none. A response without that token is thinking throughout.
    """

    alpha: float = 1.0
    score: float = 1.0
    wrong: float = 0.0
    replaces: ClassVar[bool] = True
    needs_entropy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(0 < self.score <= 1, "score", "lie in (0, 1]", self.score)
        require(0 <= self.wrong < self.score, "wrong", f"lie in [0, score = {self.score})", self.wrong)

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        assert batch.entropy is not None, "pieces see scored batches only"
        thinks_T = torch.ones_like(batch.mask) if batch.in_thinking is None else batch.in_thinking
        before_T = torch.cat([thinks_T[:1], thinks_T[:-1]]) | (batch.position == 0)
        answers_T = ~thinks_T & ~before_T  # not the token that ends the thinking part
        think_S = self._mean(seen, batch.entropy, thinks_T)
        answer_S = self._mean(seen, batch.entropy, answers_T)
        penalty_S = (think_S - self.alpha * answer_S).clamp(min=0.0)
        seen.notes.mean("pear/thinking_entropy", think_S)
        seen.notes.mean("pear/answer_entropy", answer_S)
        right_S = (self.score - penalty_S).clamp(max=1.0)
        return torch.where(batch.correct, right_S, self.wrong).to(reward_S.dtype)

    @staticmethod
    def _mean(seen: Seen, value_T: Tensor, where_T: Tensor) -> Tensor:
        """[S] fp64 over the tokens of a response ``where_T``; a response is whole on one replica."""
        sums_2S = torch.zeros(2, seen.batch.num_responses, dtype=torch.float64)
        owner_K = seen.batch.owner[where_T]
        sums_2S[0].index_add_(0, owner_K, value_T[where_T].double())
        sums_2S[1].index_add_(0, owner_K, torch.ones(owner_K.numel(), dtype=torch.float64))
        return sums_2S[0] / sums_2S[1].clamp(min=1)

    def words(self) -> str:
        return (
            f"{self.score:g} minus what entropy the thinking part has above {self.alpha:g} x the answer's if "
            f"correct, else {self.wrong:g}"
        )
