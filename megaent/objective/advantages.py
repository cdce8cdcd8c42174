"""Rewards to advantages: what is compared with what.

S responses, P groups. Sums within a group are a replica's own, because it holds whole groups; sums over
the batch go through the population.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.checks import require
from megaent.objective.seen import Seen, totals
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
    group_relative: ClassVar[bool] = True

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        centred_S = centred(reward_S, seen.batch)
        return over_deviation(centred_S, reward_S, seen.batch, self.eps) if self.normalize else centred_S

    def words(self) -> str:
        return f"reward minus the group's mean{', over its standard deviation' if self.normalize else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut:
    """``r`` minus the mean of the other responses of the group, ``G / (G - 1) (r - mean)``.

    Ahmadian et al. 2024, "Back to Basics", arXiv:2402.14740 (RLOO). A group of one keeps its reward.
    """

    group_relative: ClassVar[bool] = True

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        count_P = _group_size(reward_S, seen.batch)
        factor_P = torch.where(count_P > 1, count_P / (count_P - 1).clamp(min=1), 1.0)
        return factor_P[seen.batch.group] * centred(reward_S, seen.batch)

    def words(self) -> str:
        return "reward minus the mean reward of the group's other responses"


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthWeighted:
    """``r`` minus the group's mean weighted by length, ``sum T r / sum T``.

    Hao et al. 2025, "On-Policy RL with Optimal Reward Baseline", arXiv:2505.23585 (OPO): the baseline of
    least variance if the squared gradient of a response grows with its length. A group of one keeps its
    reward.
    """

    group_relative: ClassVar[bool] = True

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        length_S = batch.length.to(reward_S.dtype)
        base_P = _by_group(length_S * reward_S, batch) / _by_group(length_S, batch).clamp(min=1)
        return _minus_base(reward_S, base_P, batch)

    def words(self) -> str:
        return "reward minus the group's mean weighted by length"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileBaseline:
    """``r`` minus the group's ``quantile`` (the inverted distribution function), over its deviation.

    Wu et al. 2025, "Quantile Advantage Estimation for Entropy-Safe Reasoning", arXiv:2509.22611, of which we
    know the abstract: with 0/1 rewards, hard groups reward the rare success and easy groups punish the
    rare failure. The value 0.4 and the division by GRPO's sample deviation are our reading. A group of one
    has baseline 0 and deviation 1.
    """

    quantile: float = 0.4
    normalize: bool = True
    eps: float = 1e-6
    group_relative: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(0 < self.quantile < 1, "quantile", "lie in (0, 1)", self.quantile)

    def baseline(self, reward_S: Tensor, batch: Experience) -> Tensor:
        """[P] the smallest reward that at least ``quantile`` of the group's rewards do not exceed."""
        count_P = _group_size(reward_S, batch)
        if not reward_S.numel():
            return count_P
        by_reward = reward_S.argsort(stable=True)
        by_group = by_reward[batch.group[by_reward].argsort(stable=True)]
        place_P = (count_P * self.quantile).ceil().long().clamp(min=1) - 1
        first_P = (count_P.cumsum(0) - count_P).long()
        return reward_S[by_group[(first_P + place_P).clamp(max=reward_S.numel() - 1)]]

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        centred_S = _minus_base(reward_S, self.baseline(reward_S, seen.batch), seen.batch)
        return over_deviation(centred_S, reward_S, seen.batch, self.eps) if self.normalize else centred_S

    def words(self) -> str:
        division = ", over its standard deviation" if self.normalize else ""
        return f"reward minus the group's {self.quantile:g}-quantile{division}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchWhitened:
    """Rewards to mean 0 and variance 1 over all trained tokens of the batch, ``(r - m) / sqrt(v + eps)``.

    Hu 2025, "REINFORCE++", arXiv:2501.03262, with a discount of 1, so that every token of a response has
    its reward; ``v`` is the unbiased variance. ``minus_group_mean`` first subtracts the group's mean (the
    paper's variant with a baseline). Responses without a trained token are whitened but not counted.
    """

    minus_group_mean: bool = False
    eps: float = 1e-8
    group_relative: ClassVar[bool] = False

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        value_S = centred(reward_S, batch) if self.minus_group_mean else reward_S
        value_S = value_S.double()
        zeros_S = torch.zeros(batch.num_responses, dtype=torch.float64)
        count_S = zeros_S.index_add(0, batch.owner, batch.mask.double())
        one_key_S = torch.zeros_like(batch.group)
        count, total = totals(seen.population, (count_S, count_S * value_S), one_key_S, 1)
        centred_S = value_S - total / count.clamp(min=1)
        squares = totals(seen.population, (count_S * centred_S.square(),), one_key_S, 1)[0]
        variance = squares / (count - 1).clamp(min=1)
        return (centred_S * (variance + self.eps).rsqrt()).to(reward_S.dtype)

    def words(self) -> str:
        first = "reward minus the group's mean" if self.minus_group_mean else "reward"
        return f"{first}, whitened over all trained tokens of the batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedReward:
    """``2 r - 1``: a reward in [0, 1] as praise or blame, compared with nothing.

    Zhu et al. 2025, "The Surprising Effectiveness of Negative Reinforcement", arXiv:2506.01347, whose
    rewards are 1 and -1.
    """

    group_relative: ClassVar[bool] = False

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        return 2.0 * reward_S - 1.0

    def words(self) -> str:
        return "2 x reward - 1, compared with nothing"


# ---------------------------------------------------------------- within a group


def centred(reward_S: Tensor, batch: Experience) -> Tensor:
    """[S] reward minus the group's mean; 0 is the mean of a group of one."""
    count_P = _group_size(reward_S, batch)
    return _minus_base(reward_S, _by_group(reward_S, batch) / count_P.clamp(min=1), batch)


def over_deviation(centred_S: Tensor, reward_S: Tensor, batch: Experience, eps: float) -> Tensor:
    """[S] over the sample standard deviation of the group's rewards plus ``eps``; 1 for a group of one."""
    count_P = _group_size(reward_S, batch)
    square_P = _by_group(centred(reward_S, batch).square(), batch)
    std_P = torch.where(count_P > 1, (square_P / (count_P - 1).clamp(min=1)).sqrt(), 1.0)
    return centred_S / (std_P[batch.group] + eps)


def _minus_base(reward_S: Tensor, base_P: Tensor, batch: Experience) -> Tensor:
    base_P = torch.where(_group_size(reward_S, batch) > 1, base_P, 0.0)
    # Rounding of the baseline must not turn equal rewards into a signal.
    return torch.where(_is_uniform(reward_S, batch)[batch.group], 0.0, reward_S - base_P[batch.group])


def _by_group(value_S: Tensor, batch: Experience) -> Tensor:
    """[P] sums."""
    return value_S.new_zeros(len(batch.prompts)).index_add(0, batch.group, value_S)


def _group_size(like_S: Tensor, batch: Experience) -> Tensor:
    """[P] responses of each group, in the dtype of ``like_S``."""
    return _by_group(torch.ones_like(like_S), batch)


def _is_uniform(reward_S: Tensor, batch: Experience) -> Tensor:
    """[P] True for groups of two or more whose rewards are all equal."""
    num_groups = len(batch.prompts)
    lowest_P = reward_S.new_full((num_groups,), torch.inf).scatter_reduce(0, batch.group, reward_S, "amin")
    highest_P = reward_S.new_full((num_groups,), -torch.inf).scatter_reduce(0, batch.group, reward_S, "amax")
    count_P = torch.bincount(batch.group, minlength=num_groups)
    return (lowest_P == highest_P) & (count_P > 1)
