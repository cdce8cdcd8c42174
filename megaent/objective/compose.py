"""What a method is: a frozen value made of pieces, in two stages.

*Estimate* sees whole groups of one rollout batch, has no gradient, and reduces the method to one
number per token and term. *Update* sees the tokens of one microbatch inside the forward pass and
only reads those numbers. So parallel code never knows a method, and a method never sees a process
group: global statistics come from the ``Population`` it is handed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from megaent.types import Experience, Metrics, PolicyView, TokenTerms

TokenMetrics = dict[str, Tensor]
"""Name -> [N], averaged over the trained tokens of the step."""


class Population(Protocol):
    """Statistics over every replica's share of the batch, each response counted once."""

    def sum(self, value: Tensor) -> Tensor:
        """Elementwise sum over the replicas of a tensor of equal shape on each."""
        ...


class Alone:
    """The population of a single replica."""

    def sum(self, value: Tensor) -> Tensor:
        return value


@runtime_checkable
class Advantage(Protocol):
    """Rewards of whole groups to one advantage per response."""

    def __call__(self, reward_S: Tensor, batch: Experience, population: Population) -> Tensor: ...


@runtime_checkable
class Selection(Protocol):
    """A mask or coefficient per token, from old-policy quantities of the whole batch."""

    def __call__(self, advantage_T: Tensor, batch: Experience, population: Population) -> Tensor: ...


@runtime_checkable
class TokenLoss(Protocol):
    """Adds to or reshapes the loss of each token of a microbatch."""

    def __call__(self, loss_N: Tensor, view: PolicyView) -> tuple[Tensor, TokenMetrics]: ...


@runtime_checkable
class Aggregation(Protocol):
    """A weight per token, so that the loss of a minibatch is the plain sum of weight times token loss."""

    def __call__(
        self, batch: Experience, minibatch_S: Tensor, num_minibatches: int, population: Population
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Chain:
    """Token losses from left to right; a metric reported twice is an error."""

    pieces: tuple[TokenLoss, ...]

    def __call__(self, loss_N: Tensor, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        metrics: TokenMetrics = {}
        for piece in self.pieces:
            loss_N, reported = piece(loss_N, view)
            twice = metrics.keys() & reported.keys()
            if twice:
                raise ValueError(f"two token losses report {sorted(twice)}; give one of them another name")
            metrics |= reported
        return loss_N, metrics


def chain(*pieces: TokenLoss | None) -> Chain:
    """The pieces that are there; None stands for one whose coefficient is 0."""
    return Chain(tuple(piece for piece in pieces if piece is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What one paper adds; prints as the recipe it is."""

    advantage: Advantage
    token_loss: TokenLoss
    aggregation: Aggregation
    selections: Mapping[str, Selection] = field(default_factory=dict)
    needs_reference: bool = False  # score must fill log_prob_ref
    group_relative: bool = False  # equal rewards within every group teach nothing


def estimate(
    method: Method,
    batch: Experience,
    *,
    minibatch_S: Tensor,
    num_minibatches: int,
    population: Population,
) -> tuple[TokenTerms, Metrics]:
    """Reduce ``method`` to per-token terms on a scored batch; no gradient, nothing changed in place.

    ``minibatch_S`` [S] int64 says which optimiser step learns from each response. Raises ValueError
    when the batch was not scored.
    """
    if batch.log_prob_old is None or batch.entropy is None:
        raise ValueError(
            "estimate needs a scored batch: log_prob_old and entropy are missing; call score first"
        )
    advantage_S = method.advantage(batch.reward, batch, population)
    advantage_T = advantage_S[batch.owner].to(batch.log_prob_old.dtype)
    terms = TokenTerms(
        advantage=advantage_T,
        weight=method.aggregation(batch, minibatch_S, num_minibatches, population).to(advantage_T.dtype),
        minibatch=minibatch_S[batch.owner],
        selections={
            name: select(advantage_T, batch, population) for name, select in method.selections.items()
        },
    )
    return terms, _describe(advantage_S, population)


def _describe(advantage_S: Tensor, population: Population) -> Metrics:
    parts = advantage_S.new_tensor(
        [advantage_S.numel(), float(advantage_S.abs().sum()), float((advantage_S != 0).sum())]
    )
    count, absolute, informative = population.sum(parts).tolist()
    return {
        "advantage/mean_abs": absolute / max(count, 1),
        "advantage/nonzero": informative / max(count, 1),
    }
