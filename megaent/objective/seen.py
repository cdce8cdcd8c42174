"""What a piece may look at: the batch, the population behind it, and the tokens of one policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.objective.exact_sums import long_sums, rounded
from megaent.types import Experience, Metrics, Replicas


def totals(population: Replicas, values: Sequence[Tensor], key_N: Tensor, num_keys: int) -> Tensor:
    """[K, M] fp64 sums of K values [N] by key over all replicas, in one reduction and rounded once.

    The same bits whatever the order of the N and whoever holds them.
    """
    sums_KML = torch.stack([long_sums(value_N, key_N, num_keys) for value_N in values])
    return rounded(population.sum(sums_KML).flatten(0, 1)).view(len(values), num_keys)


class Labels(NamedTuple):
    """Which of a few classes each token belongs to."""

    kind: Tensor  # [T] int64, index into ``names``
    names: tuple[str, ...]


class Notes:
    """Means that pieces report on the way; summed over the replicas once, at the end, whoever holds what.

    ``labels`` are for people who look at single tokens: what a piece knew of each, never reduced.
    """

    def __init__(self) -> None:
        self.labels: dict[str, Labels] = {}
        self._sums: dict[str, Tensor] = {}  # name -> [2, L] of the values, and of how many

    def mean(self, name: str, value: Tensor, where: Tensor | None = None) -> None:
        """The mean of ``value`` over the whole population, of the entries ``where`` is True if given."""
        if name in self._sums:
            raise ValueError(f"two pieces report {name}; give one of them another name")
        chosen = (value if where is None else value[where]).double().flatten()
        count = chosen.new_tensor([chosen.numel()])
        key = torch.cat([torch.zeros_like(chosen), torch.ones_like(count)]).long()
        self._sums[name] = long_sums(torch.cat([chosen, count]), key, 2)

    def reduce(self, population: Replicas) -> Metrics:
        """One reduction; a mean over nothing is 0."""
        if not self._sums:
            return {}
        total = rounded(population.sum(torch.cat(list(self._sums.values())))).view(-1, 2)
        return {
            name: float(summed / max(float(count), 1.0))
            for name, (summed, count) in zip(self._sums, total, strict=True)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One rollout batch as the pieces of ``estimate`` see it."""

    batch: Experience
    population: Replicas
    minibatch_S: Tensor  # [S] int64, the optimizer step that learns from each response
    num_minibatches: int
    progress: float = 0.0  # share of the run's steps that lie behind, in [0, 1)
    coefs: Mapping[str, float] = field(default_factory=dict)  # of the controllers, by their names
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a token rule may look at, without gradient.

    Over the batch these are quantities of the old policy and ``log_prob`` equals ``log_prob_old``;
    over a microbatch (the published form of some rules) they are those of the current policy.
    """

    log_prob: Tensor  # [N] nats
    log_prob_old: Tensor  # [N] nats
    log_prob_engine: Tensor  # [N] nats
    entropy: Tensor  # [N] nats
    advantage: Tensor  # [N]
    mask: Tensor  # [N] bool, learnt from
    owner: Tensor  # [N] int64, index of the response in the batch
    num_responses: int
    order: Tensor  # [N] int64, breaks ties: place of prompt, response and token as one number
    minibatch: Tensor  # [N] int64; -1 belongs to none
    num_minibatches: int
    population: Replicas
    nucleus_entropy: Tensor | None = None  # [N] nats, where a term asks

    def counted(self) -> Tensor:
        """[N] True for the tokens that statistics are taken over."""
        return self.mask & (self.minibatch >= 0)

    def total(self, value_N: Tensor, where_N: Tensor | None = None) -> Tensor:
        """[M] fp64 sums of ``value_N`` over each minibatch's counted tokens, over all replicas."""
        return self._totals((value_N,), where_N)[0]

    def _totals(self, values: Sequence[Tensor], where_N: Tensor | None) -> Tensor:
        """[K, M]"""
        where_N = self.counted() if where_N is None else where_N & self.counted()
        chosen = [value_N[where_N] for value_N in values]
        return totals(self.population, chosen, self.minibatch[where_N], self.num_minibatches)

    def mean(self, value_N: Tensor, where_N: Tensor | None = None) -> Tensor:
        """[N] the mean of ``value_N`` over the token's minibatch; 0 where it has no counted token."""
        return self.means((value_N,), where_N)[0]

    def means(self, values: Sequence[Tensor], where_N: Tensor | None = None) -> list[Tensor]:
        """The ``mean`` of each of several values, in one reduction."""
        *total_KM, count_M = self._totals((*values, torch.ones_like(values[0])), where_N)
        return [
            self.spread(total_M / count_M.clamp(min=1)).to(value_N.dtype)
            for total_M, value_N in zip(total_KM, values, strict=True)
        ]

    def spread(self, value_M: Tensor) -> Tensor:
        """[N] each token's entry of a number per minibatch."""
        return value_M[self.minibatch.clamp(min=0)]


def tie_order(batch: Experience) -> Tensor:
    """[T] int64: place of the prompt in the step, of the response in its group, of the token in it.

    The same whoever holds the tokens: up to 2^23 prompts, 2^16 responses each, 2^24 tokens each.
    """
    number_S = torch.arange(batch.num_responses) - first_of_group(batch)[batch.group]
    place_S = (batch.index[batch.group] << 40) + (number_S << 24)
    return place_S[batch.owner] + batch.position


def first_of_group(batch: Experience) -> Tensor:
    """[P] the first response of each group; responses of a group stand side by side."""
    count_P = torch.bincount(batch.group, minlength=len(batch.prompts))
    return count_P.cumsum(0) - count_P


def batch_tokens(seen: Seen, advantage_T: Tensor) -> Tokens:
    """The old policy's tokens of the whole batch."""
    batch = seen.batch
    assert batch.log_prob_old is not None, "pieces see scored batches only"
    assert batch.entropy is not None, "pieces see scored batches only"
    return Tokens(
        log_prob=batch.log_prob_old,
        log_prob_old=batch.log_prob_old,
        log_prob_engine=batch.log_prob_engine,
        entropy=batch.entropy,
        advantage=advantage_T,
        mask=batch.mask,
        owner=batch.owner,
        num_responses=batch.num_responses,
        order=tie_order(batch),
        minibatch=seen.minibatch_S[batch.owner],
        num_minibatches=seen.num_minibatches,
        population=seen.population,
        nucleus_entropy=batch.nucleus_entropy,
    )
