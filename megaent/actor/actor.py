"""The seam between the loop and whatever holds the policy; importing it needs torch alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from torch import Tensor

from megaent.experience.work import Work
from megaent.objective.method import Loss
from megaent.types import Experience, Metrics, Replicas, Shared, TokenTerms


class Placement(Replicas, Protocol):
    """What is asked of the parallel layout; ``megaent.actor.parallel.Layout`` answers for Megatron."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

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

    def exchange(self, parts: list[list[Shared]]) -> list[Shared]:
        """Among leaders: ``parts[r]`` to replica r; what every replica had for this one, in their order."""
        ...

    def from_rank_0(self, value: Shared | None) -> Shared: ...

    def gather_everywhere(self, value: Shared) -> list[Shared]:
        """Every rank's ``value`` in rank order; for small things only."""
        ...

    def barrier(self) -> None: ...


class Actor(Protocol):
    """Scores tokens with the present policy, learns, and can be kept. Every method is a collective."""

    @property
    def layout(self) -> Placement: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def identity(self) -> dict[str, object]:
        """What its weights fit, as JSON gives it back: only an actor of equal identity can load them."""
        ...

    @property
    def work(self) -> Work:
        """What a sequence costs it."""
        ...

    optimizer_steps: int  # since the start, or since ``reset_optimizer``

    def score(
        self,
        batch: Experience,
        *,
        temperature: float,
        with_reference: bool = False,
        check: Tensor | None = None,
        nucleus_p: float | None = None,
    ) -> Experience:
        """``check`` [K]: tokens of this rank's batch whose statistics are computed a second time.

        ``nucleus_p`` asks for the entropy over that nucleus too, as ``Loss.nucleus_p`` of the step's method.
        """
        ...

    def drift(self, batch: Experience, *, temperature: float) -> Metrics:
        """How far the precision in use is from the full one, on some of the batch's tokens; may be empty."""
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

    def gradient_norm(self, batch: Experience, terms: TokenTerms, loss: Loss, *, temperature: float) -> float:
        """L2 norm of what ``loss`` alone would teach in the first minibatch, unclipped; nothing is learnt."""
        ...

    def named_weights(self) -> Iterator[tuple[str, Tensor]]: ...

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Weights and optimizer state into an empty folder. Raises OSError however the disk refuses."""
        ...

    def load(self, folder: Path) -> None:
        """What ``save`` wrote, under any layout. Raises CheckpointError for anything else."""
        ...

    def reset_optimizer(self) -> None:
        """Forget the moments; the weights stay."""
        ...

    # ------------------------------------------------------------ the reference policy

    reference_digest: str | None  # of its weight files; None where none is kept

    def keep_reference(self, folder: Path | None = None) -> None:
        """Take the present weights, which ``folder`` holds too, as the reference policy's."""
        ...

    def load_folder(self, folder: Path) -> None:
        """Replace the weights by those of a Hugging Face folder."""
        ...
