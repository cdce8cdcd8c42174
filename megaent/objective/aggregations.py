"""How the tokens of a minibatch share its loss; weights are computed once, over all replicas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.seen import Seen


@dataclass(frozen=True, slots=True)
class TokenMean:
    """Every trained token of the minibatch weighs the same: ``1 / number of tokens``."""

    def __call__(self, seen: Seen) -> Tensor:
        batch, minibatch_S = seen.batch, seen.minibatch_S
        mask_T = batch.mask.to(torch.float64)
        minibatch_T = minibatch_S[batch.owner]
        tokens_M = seen.population.sum(_sum_by(mask_T, minibatch_T, seen.num_minibatches))
        return mask_T / tokens_M.clamp(min=1)[minibatch_T.clamp(min=0)] * (minibatch_T >= 0)

    def words(self) -> str:
        return "all trained tokens of the minibatch"


@dataclass(frozen=True, slots=True)
class ResponseMean:
    """Every response weighs the same, its tokens sharing: ``1 / (responses * its tokens)``."""

    def __call__(self, seen: Seen) -> Tensor:
        batch, minibatch_S = seen.batch, seen.minibatch_S
        mask_T = batch.mask.to(torch.float64)
        tokens_S = _sum_by(mask_T, batch.owner, batch.num_responses)
        has_tokens_S = (tokens_S > 0).to(torch.float64)
        responses_M = seen.population.sum(_sum_by(has_tokens_S, minibatch_S, seen.num_minibatches))
        share_S = 1.0 / (tokens_S.clamp(min=1) * responses_M.clamp(min=1)[minibatch_S.clamp(min=0)])
        return mask_T * share_S[batch.owner] * (minibatch_S[batch.owner] >= 0)

    def words(self) -> str:
        return "the tokens of a response, then the responses of the minibatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantLength:
    """``1 / (responses * length)``: Dr.GRPO's sum over a constant number of tokens, arXiv:2503.20783."""

    length: int  # tokens

    def __call__(self, seen: Seen) -> Tensor:
        batch, minibatch_S = seen.batch, seen.minibatch_S
        mask_T = batch.mask.to(torch.float64)
        ones_S = torch.ones(batch.num_responses, dtype=torch.float64)
        responses_M = seen.population.sum(_sum_by(ones_S, minibatch_S, seen.num_minibatches))
        minibatch_T = minibatch_S[batch.owner]
        weight_T = mask_T / (responses_M.clamp(min=1)[minibatch_T.clamp(min=0)] * self.length)
        return weight_T * (minibatch_T >= 0)

    def words(self) -> str:
        return f"the responses of the minibatch, each the sum of its tokens over {self.length}"


def _sum_by(value: Tensor, key: Tensor, size: int) -> Tensor:
    """Sums of ``value`` per key; a key of -1 belongs to none."""
    is_in = key >= 0
    return value.new_zeros(size).index_add(0, key[is_in], value[is_in])


def aggregation(name: str, length: int = 0) -> TokenMean | ResponseMean | ConstantLength:
    """By its name in the configuration; ``length`` (tokens) belongs to constant_length alone."""
    if (name == "constant_length") != (length > 0):
        raise ValueError(
            "constant_length (tokens, above 0) and aggregation=constant_length need each other, got "
            f"{length} and {name!r}"
        )
    known = {"token_mean": TokenMean(), "response_mean": ResponseMean()}
    if name == "constant_length":
        return ConstantLength(length=length)
    if name not in known:
        raise ValueError(f"aggregation must be one of {', '.join([*known, 'constant_length'])}, got {name!r}")
    return known[name]
