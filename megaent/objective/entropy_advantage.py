"""A bonus on the advantage of uncertain tokens: exploration without a term of its own in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.difficulty import HardPrompts
from megaent.objective.seen import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyAdvantage:
    """``A + min(alpha H, |A| / kappa)``, H the old policy's entropy of the token in nats, a constant.

    Cheng et al. 2025, "Reasoning with Exploration: An Entropy Perspective", arXiv:2506.14758. With
    kappa above 1 no advantage changes its sign, and one of 0 stays 0. ``where`` limits it to hard
    prompts, as CEEH-EA does (arXiv:2602.22642, eq. 12); None shapes every prompt.
    """

    alpha: float = 0.4
    kappa: float = 2.0
    where: HardPrompts | None = None

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"alpha must be 0 or more, got {self.alpha}")
        if self.kappa <= 1:
            raise ValueError(
                f"kappa must be above 1, else an advantage could change its sign, got {self.kappa}"
            )

    def __call__(self, advantage_T: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        assert batch.entropy is not None, "pieces see scored batches only"
        bonus_T = torch.minimum(
            self.alpha * batch.entropy.to(advantage_T.dtype), advantage_T.abs() / self.kappa
        )
        if self.where is None:
            return advantage_T + bonus_T
        is_hard_T = self.where(seen)[batch.group][batch.owner]
        return torch.where(is_hard_T, advantage_T + bonus_T, advantage_T)

    def words(self) -> str:
        where = "" if self.where is None else f", on {self.where.words()}"
        return f"plus min({self.alpha:g} x entropy, |A| / {self.kappa:g}){where}"
