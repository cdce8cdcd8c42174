"""The seam between the loop and whatever holds the policy; importing it needs torch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from torch import Tensor

from megaent.objective.method import Loss
from megaent.types import Experience, Metrics, TokenTerms

Shared = TypeVar("Shared")


class Placement(Protocol):
    """What the loop asks of the parallel layout; ``megaent.actor.parallel.Layout`` answers for Megatron."""

    @property
    def dp(self) -> int: ...

    @property
    def dp_rank(self) -> int: ...

    @property
    def is_leader(self) -> bool: ...

    def share(self, value: Shared | None) -> Shared:
        """The leader's ``value`` on every rank of its replica."""
        ...

    def gather_over_replicas(self, values: list[Shared]) -> list[Shared]: ...

    def sum(self, value: Tensor) -> Tensor:
        """Over the replicas, each counted once."""
        ...

    def max(self, value: Tensor) -> Tensor: ...


class Actor(Protocol):
    """Scores tokens with the present policy, and learns from them. Every method is a collective."""

    @property
    def layout(self) -> Placement: ...

    @property
    def vocab_size(self) -> int: ...

    def score(
        self,
        batch: Experience,
        *,
        temperature: float,
        with_reference: bool = False,
        check: Tensor | None = None,
    ) -> Experience:
        """``check`` [K]: tokens of this rank's batch whose statistics are computed a second time."""
        ...

    def update(
        self,
        batch: Experience,
        terms: TokenTerms,
        loss: Loss,
        *,
        temperature: float,
        num_minibatches: int,
    ) -> Metrics: ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]: ...


class OneProcess:
    """The placement of a single process that is its own leader."""

    dp = 1
    dp_rank = 0
    is_leader = True

    def share(self, value: Shared | None) -> Shared:
        assert value is not None, "a single process shares what it has"
        return value

    def gather_over_replicas(self, values: list[Shared]) -> list[Shared]:
        return values

    def sum(self, value: Tensor) -> Tensor:
        return value

    def max(self, value: Tensor) -> Tensor:
        return value
