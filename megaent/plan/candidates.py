"""Layouts that were tried: what fits, what does not, and the best of each division beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.plan.generation import Engines
from megaent.plan.layout import Layout
from megaent.plan.memory import Memory
from megaent.plan.step import StepSeconds
from megaent.plan.training import TrainSeconds
from megaent.plan.work import Work

TIE = 0.025
"""Of the time of a step: what lies nearer is not told apart."""
_NEARLY = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    layout: Layout
    work: Work
    memory: Memory
    seconds: float
    update: TrainSeconds
    step: StepSeconds | None = None  # of reinforcement learning
    engines: Engines | None = None
    colocated: bool = False
    microbatch_tokens: int = 0  # that a pack may hold
    lacks: float = 0.0  # bytes; above 0 only where every size was given and the plan is shown all the same

    @property
    def rank(self) -> float:
        """Seconds; where a step waits for generation, the trainer that is done sooner comes first."""
        training = self.step.trained.total if self.step is not None else self.seconds
        return self.seconds + 0.01 * training


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A layout that does not fit, and what a card lacks."""

    layout: Layout
    microbatch_tokens: int
    memory: Memory
    lacks: float  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    candidates: list[Candidate]  # fastest first
    refused: list[Refused]  # nearest first
    tried: int

    @property
    def margin(self) -> float:
        """How much longer the runner-up takes; infinite without one."""
        if len(self.candidates) < 2:
            return float("inf")
        return self.candidates[1].seconds / self.candidates[0].seconds - 1


def distinct(found: list[Candidate]) -> list[Candidate]:
    """One of each division of cards, fastest first: of those nearly as fast as its fastest the plainest, with
    fewest virtual stages, then least memory."""
    groups: dict[tuple[object, ...], list[Candidate]] = {}
    for one in found:
        layout, engines = one.layout, one.engines
        key = (layout.tp, layout.pp, layout.cp, layout.ep, layout.dp, one.colocated)
        groups.setdefault((*key, engines and (engines.cards, engines.tp)), []).append(one)
    return sorted(map(_plainest, groups.values()), key=lambda one: (one.rank, one.memory.total))


def _plainest(group: list[Candidate]) -> Candidate:
    limit = min(one.rank for one in group) * (1 + _NEARLY)
    near = [one for one in group if one.rank <= limit]
    return min(near, key=lambda one: (one.layout.vpp, one.memory.total))
