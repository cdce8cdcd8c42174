"""Do the servers and the actor say the same of the same tokens? Asked of fixed ones, after a publication.

The question is put when the weights are there and the answer read before anything drawn from them is learnt
from: servers that are busy with responses answer meanwhile.

Checksums find weights that arrived wrong. This finds weights that arrived right and are used in another way:
another type, another rotation of positions, another model behind the address.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import torch

from megaent.actor.actor import Actor
from megaent.errors import NumericsError
from megaent.experience.pack import pack
from megaent.sync.background import in_background
from megaent.types import Grade, Group, Metrics, Prompt, Response


class Scorer(Protocol):
    def log_probs(self, tokens: Sequence[int]) -> Mapping[str, Sequence[float]]:
        """By server: the log-prob of each token but the first given those before it, nats, temperature 1."""
        ...


@dataclass(slots=True, kw_only=True)
class Agreement:
    """``scorer`` is None on ranks that ask nobody; they take part in the actor's pass all the same."""

    actor: Actor
    scorer: Scorer | None
    tokens: tuple[int, ...]  # two or more
    limit: float  # nats
    every: int  # versions
    _ours: list[float] | None = field(default=None, init=False)  # while there is a question
    _theirs: Future[Mapping[str, Sequence[float]]] | None = field(default=None, init=False)

    def ask(self, version: int) -> None:
        """A collective, and nothing at versions that are not checked."""
        if version % self.every:
            return
        self._ours = self._by_actor()
        if self.scorer is not None:
            self._theirs = in_background(self.scorer.log_probs, self.tokens)

    def require(self) -> Metrics:
        """The largest difference anywhere, where there was a question. A collective.

        Raises NumericsError on a rank whose server differs by more than the limit, with the server's name.
        """
        if self._ours is None:
            return {}
        ours, asked = self._ours, self._theirs
        self._ours = self._theirs = None
        theirs = asked.result() if asked is not None else {}
        worst = max(
            (
                require_same_log_probs(found, ours, limit=self.limit, server=server)
                for server, found in theirs.items()
            ),
            default=0.0,
        )
        everywhere = self.actor.layout.max(torch.tensor([worst], dtype=torch.float64))
        return {"sync/log_prob_difference": float(everywhere)}

    def _by_actor(self) -> list[float]:
        """The tokens as a response to the first of them."""
        first, *rest = self.tokens
        response = Response(tokens=tuple(rest), log_prob=(0.0,) * len(rest), finish="length", version=0)
        group = Group(
            index=0,
            prompt=Prompt(id="agreement", tokens=(first,), text="", answer=""),
            responses=(response,),
            grades=(Grade(reward=0.0, correct=False),),
        )
        scored = self.actor.score(pack([group]), temperature=1.0)
        assert scored.log_prob_old is not None, "score fills log_prob_old"
        return scored.log_prob_old.tolist()


def require_same_log_probs(
    engine: Sequence[float], trainer: Sequence[float], *, limit: float, server: str
) -> float:
    """The largest absolute difference, nats. Raises NumericsError above ``limit`` and for what is not finite.

    1e-4 is what fp32 on both sides keeps; bf16 differs by 0.1 to 0.3.
    """
    if len(engine) != len(trainer):
        raise ValueError(
            f"as many log-probs from both sides are needed, got {len(engine)} and {len(trainer)}"
        )
    worst, place = 0.0, 0
    for i, (theirs, ours) in enumerate(zip(engine, trainer, strict=True)):
        difference = abs(theirs - ours)
        if not math.isfinite(difference):
            worst, place = math.inf, i
            break
        if difference > worst:
            worst, place = difference, i
    if worst > limit:
        raise NumericsError(
            f"{server} and the trainer disagree after a publication: the log-prob of token {place + 1} is "
            f"{engine[place]:.6g} there and {trainer[place]:.6g} here, {worst:.2e} nats apart, above "
            f"rollout.sync.log_prob_limit={limit:.1e}; compare rollout.dtype with model.dtype"
        )
    return worst
