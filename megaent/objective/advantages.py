"""Rewards to advantages: what is compared with what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.compose import Population
from megaent.types import Experience


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRelative:
    """``(r - mean of the group) / (std of the group + eps)``, or without the division.

    Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, eq. 21; the standard deviation is the sample
    one (divisor G - 1), as in verl. Without ``normalize`` it is Dr.GRPO's, Liu et al. 2025,
    arXiv:2503.20783. A group of one has mean 0 and deviation 1. Equal rewards give exactly 0.
    """

    normalize: bool = True
    eps: float = 1e-6

    def __call__(self, reward_S: Tensor, batch: Experience, population: Population) -> Tensor:
        num_groups = len(batch.prompts)
        count_P = reward_S.new_zeros(num_groups).index_add(0, batch.group, torch.ones_like(reward_S))
        mean_P = reward_S.new_zeros(num_groups).index_add(0, batch.group, reward_S) / count_P.clamp(min=1)
        mean_P = torch.where(count_P > 1, mean_P, 0.0)
        centred_S = reward_S - mean_P[batch.group]
        # Rounding of the mean must not turn equal rewards into a signal.
        centred_S = torch.where(_is_uniform(reward_S, batch)[batch.group], 0.0, centred_S)
        if not self.normalize:
            return centred_S
        square_P = reward_S.new_zeros(num_groups).index_add(0, batch.group, centred_S.square())
        std_P = torch.where(count_P > 1, (square_P / (count_P - 1).clamp(min=1)).sqrt(), 1.0)
        return centred_S / (std_P[batch.group] + self.eps)


def _is_uniform(reward_S: Tensor, batch: Experience) -> Tensor:
    """[P] True for groups of two or more whose rewards are all equal."""
    num_groups = len(batch.prompts)
    lowest_P = reward_S.new_full((num_groups,), torch.inf).scatter_reduce(0, batch.group, reward_S, "amin")
    highest_P = reward_S.new_full((num_groups,), -torch.inf).scatter_reduce(0, batch.group, reward_S, "amax")
    count_P = torch.bincount(batch.group, minlength=num_groups)
    return (lowest_P == highest_P) & (count_P > 1)
