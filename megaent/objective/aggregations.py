"""How the tokens of a minibatch share its loss; weights are computed once, over all replicas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.compose import Population
from megaent.types import Experience


@dataclass(frozen=True, slots=True)
class TokenMean:
    """Every trained token of the minibatch weighs the same: ``1 / number of tokens``."""

    def __call__(
        self, batch: Experience, minibatch_S: Tensor, num_minibatches: int, population: Population
    ) -> Tensor:
        mask_T = batch.mask.to(torch.float64)
        minibatch_T = minibatch_S[batch.owner]
        tokens_M = population.sum(_sum_by(mask_T, minibatch_T, num_minibatches))
        return mask_T / tokens_M.clamp(min=1)[minibatch_T.clamp(min=0)] * (minibatch_T >= 0)


@dataclass(frozen=True, slots=True)
class ResponseMean:
    """Every response weighs the same, its tokens sharing: ``1 / (responses * its tokens)``."""

    def __call__(
        self, batch: Experience, minibatch_S: Tensor, num_minibatches: int, population: Population
    ) -> Tensor:
        mask_T = batch.mask.to(torch.float64)
        tokens_S = _sum_by(mask_T, batch.owner, batch.num_responses)
        has_tokens_S = (tokens_S > 0).to(torch.float64)
        responses_M = population.sum(_sum_by(has_tokens_S, minibatch_S, num_minibatches))
        share_S = 1.0 / (tokens_S.clamp(min=1) * responses_M.clamp(min=1)[minibatch_S.clamp(min=0)])
        return mask_T * share_S[batch.owner] * (minibatch_S[batch.owner] >= 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantLength:
    """``1 / (responses * length)``: Dr.GRPO's sum over a constant number of tokens, arXiv:2503.20783."""

    length: int  # tokens

    def __call__(
        self, batch: Experience, minibatch_S: Tensor, num_minibatches: int, population: Population
    ) -> Tensor:
        mask_T = batch.mask.to(torch.float64)
        ones_S = torch.ones(batch.num_responses, dtype=torch.float64)
        responses_M = population.sum(_sum_by(ones_S, minibatch_S, num_minibatches))
        minibatch_T = minibatch_S[batch.owner]
        weight_T = mask_T / (responses_M.clamp(min=1)[minibatch_T.clamp(min=0)] * self.length)
        return weight_T * (minibatch_T >= 0)


def _sum_by(value: Tensor, key: Tensor, size: int) -> Tensor:
    """Sums of ``value`` per key; a key of -1 belongs to none."""
    is_in = key >= 0
    return value.new_zeros(size).index_add(0, key[is_in], value[is_in])
