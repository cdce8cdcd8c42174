"""A step's graded groups: generated, graded, remembered; again where the method replaces some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch

from megaent.data.task import Task, decode_groups
from megaent.experience.filter import first_kept
from megaent.experience.pack import pack
from megaent.loop.clock import Clock, timed
from megaent.loop.generation import Generation
from megaent.loop.method_state import outcome
from megaent.loop.prompt_draw import visit
from megaent.objective.sampling import informative
from megaent.reward.reward import Reward
from megaent.types import Group, Prompt, SamplingParams


class Source(Protocol):
    """Where a step's responses come from: drawn when they are asked for, or ahead of it."""

    hidden_s: float  # seconds of the last step's generation during which the trainer did something else

    def take(self, step: int, attempt: int = 0) -> list[Group]:
        """This leader's share of one batch of prompts, continued; peers have none."""
        ...

    def rest(self) -> None:
        """The step has all its responses, and nothing else is being drawn."""
        ...

    def settle(self) -> None:
        """Before new weights: wait for what an engine cannot go on with under them."""
        ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def close(self) -> None: ...


class OnDemand:
    """Responses are drawn by the newest weights when their step comes."""

    hidden_s = 0.0

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def take(self, step: int, attempt: int = 0) -> list[Group]:
        return self._generation.first(step, attempt)

    def rest(self) -> None:
        if self._generation.engine is not None:
            self._generation.engine.rest()

    def settle(self) -> None: ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A leader's graded groups of one step; peers have none."""

    groups: list[Group]  # to be learnt from
    sampled: list[Group] | None = None  # all that were drawn, where some were not kept


@dataclass(frozen=True, kw_only=True, eq=False)
class Collector:
    """``reward`` exists on the leader of each replica only. Every method is a collective."""

    generation: Generation
    source: Source
    reward: Reward | None
    task: Task
    clock: Clock = field(default_factory=Clock)

    def collect(self, step: int) -> Collected:
        """This leader's graded groups: of the step's prompts, or of as many that teach something."""
        method = self.generation.course.method_at(step)
        if method.sampling is None:
            collected = Collected(groups=self._graded(step))
        else:
            collected = self._informative(step, method.sampling.max_batches)
        if method.second_rollout is not None:
            again = self.grade(self.second(step, collected.groups))
            collected = replace(collected, groups=collected.groups + again)
        return collected

    def respond(
        self,
        prompts: Sequence[Prompt],
        purpose: tuple[str | int, ...],
        *,
        group_size: int,
        sampling: SamplingParams,
    ) -> list[Group]:
        """Graded responses to this leader's share of prompts that belong to no step; peers have none."""
        return self.grade(self.generation.respond(prompts, purpose, group_size=group_size, sampling=sampling))

    def close(self) -> None:
        for part in (self.source, self.generation.engine, self.reward):
            if part is not None:
                part.close()

    # ------------------------------------------------------------ one batch

    def _graded(self, step: int, attempt: int = 0) -> list[Group]:
        groups = self.grade(self.generate(step, attempt))
        self._remember(step, groups)
        return groups

    @timed
    def generate(self, step: int, attempt: int = 0) -> list[Group]:
        return self.source.take(step, attempt)

    def second(self, step: int, groups: Sequence[Group]) -> list[Group]:
        with self.clock.measure("generate"):
            return self.generation.second(step, groups, self.generation.course.method_at(step))

    @timed
    def grade(self, groups: list[Group]) -> list[Group]:
        if self.reward is None:
            return []
        return self.reward.grade(decode_groups(groups, self.task.decode))

    def _remember(self, step: int, groups: list[Group]) -> None:
        """What every graded group tells of its prompt, known to every rank; once a step and prompt."""
        layout, state = self.generation.layout, self.generation.course.state
        if state.history is not None:
            mine = layout.share([outcome(group) for group in groups] if layout.is_leader else None)
            state.commit(step, layout.gather_over_replicas(mine))
        if state.draw is not None and state.draw.options.learns:
            seen = layout.share([visit(group) for group in groups] if layout.is_leader else None)
            state.draw.note(layout.gather_over_replicas(seen))

    # ------------------------------------------------------------ several batches

    def _informative(self, step: int, max_batches: int) -> Collected:
        """Groups that teach something, first come first kept, until there are enough anywhere."""
        layout, course = self.generation.layout, self.generation.course
        wanted = self.generation.stream.per_step
        kept: list[Group] = []
        sampled: list[Group] = []
        for attempt in range(max_batches):
            groups = self._graded(step, attempt)
            sampled += groups
            kept += self._teaching(step, groups)
            mine = layout.share([group.index for group in kept] if layout.is_leader else None)
            everywhere = layout.gather_over_replicas(mine)
            if len(everywhere) >= wanted:
                break
        course.state.took(course.phase_at(step).stage, attempt + 1)
        return Collected(groups=first_kept(kept, everywhere, wanted), sampled=sampled)

    def _teaching(self, step: int, groups: list[Group]) -> list[Group]:
        course = self.generation.course
        batch = course.with_history(step, pack(groups))
        batch = replace(batch, minibatch=torch.zeros_like(batch.group))
        is_kept = informative(course.method_at(step), course.seen(step, batch, 1))
        return [group for group, keep in zip(groups, is_kept, strict=True) if keep]
