"""What a step asks of the engine: which prompts, from which seeds, how sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from megaent.actor.actor import Placement
from megaent.data.prompts import PromptSource, Sizes
from megaent.experience.pack import SECOND_ROLLOUT
from megaent.loop.course import Course
from megaent.loop.cursor import Cursor
from megaent.objective.method import Method
from megaent.randomness import draw_seed
from megaent.rollout.engine import RolloutEngine
from megaent.types import Group, Prompt, RolloutRequest, SamplingParams


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """One replica's side of the sampling; ranks without an engine get no groups."""

    engine: RolloutEngine | None
    stream: PromptSource
    course: Course
    sampling: SamplingParams
    group_size: int
    seed: int

    @property
    def layout(self) -> Placement:
        return self.course.layout

    def sampling_at(self, step: int) -> SamplingParams:
        phase, sampling = self.course.phase_at(step), self.sampling
        return replace(
            sampling,
            temperature=sampling.temperature if phase.temperature is None else phase.temperature,
            max_new_tokens=phase.max_new_tokens or sampling.max_new_tokens,
            top_log_probs=phase.method.top_log_probs,
        )

    def first(self, step: int, attempt: int = 0) -> list[Group]:
        """This leader's share of one batch of the step's prompts, continued."""
        if self.engine is None:
            return []
        offset = attempt * self.stream.per_step
        mine = [(offset + place, prompt) for place, prompt in self._prompts(step, attempt)]
        requests = self._requests(mine, ("rollout", step, *([attempt] if attempt else [])), self.group_size)
        return self.engine.generate(requests, self.sampling_at(step))

    def _prompts(self, step: int, attempt: int) -> list[tuple[int, Prompt]]:
        """This leader's, each with its place in the batch."""
        leader, leaders, draw = self.layout.dp_rank, self.layout.dp, self.course.state.draw
        if draw is None:
            before = self.cursor.place(step, attempt)
            return self._stream(step).take(before, leader=leader, leaders=leaders)
        return draw.take(
            step,
            attempt,
            per_step=self.stream.per_step,
            progress=(step - 1) / max(self.course.num_steps, 1),
            leader=leader,
            leaders=leaders,
        )

    def second(self, step: int, groups: Sequence[Group], method: Method) -> list[Group]:
        """The first prompts of the step once more, at the temperature of the method's controller."""
        assert method.second_rollout is not None, "asked of a method with a second rollout"
        if self.engine is None:
            return []
        limit = round(method.second_rollout.fraction * self.stream.per_step)
        items = [(group.index + SECOND_ROLLOUT, group.prompt) for group in groups if group.index < limit]
        temperature = self.course.state.coefs(method)["second_temperature"]
        requests = self._requests(items, ("second rollout", step), self.group_size)
        return self.engine.generate(requests, replace(self.sampling_at(step), temperature=temperature))

    def respond(
        self,
        prompts: Sequence[Prompt],
        purpose: tuple[str | int, ...],
        *,
        group_size: int,
        sampling: SamplingParams,
    ) -> list[Group]:
        """Responses to this leader's share of prompts that belong to no step."""
        if self.engine is None:
            return []
        mine = [(i, p) for i, p in enumerate(prompts) if i % self.layout.dp == self.layout.dp_rank]
        return self.engine.generate(self._requests(mine, purpose, group_size), sampling)

    # ------------------------------------------------------------ which prompts, from which seeds

    @cached_property
    def cursor(self) -> Cursor:
        return Cursor(self.course, self.stream.per_step)

    def go_on(self, step: int, cursor: Mapping[str, Any]) -> None:
        """Continue after ``step`` with what a checkpoint says was asked. Raises DataError where it cannot."""
        self.cursor.load_state(step, cursor)
        self._stream(step + 1)

    def _stream(self, step: int) -> PromptSource:
        stage = self.course.phase_at(step).stage
        return self._stream_of(stage, self.cursor.sizes(stage))

    @lru_cache(maxsize=2)  # noqa: B019 - it lives as long as its process
    def _stream_of(self, stage: int | None, sizes: Sizes) -> PromptSource:
        ids = None if stage is None else self.course.state.stages()[stage]
        return self.stream.part(ids, sizes=sizes)

    def _requests(
        self, items: Sequence[tuple[int, Prompt]], purpose: tuple[str | int, ...], group_size: int
    ) -> list[RolloutRequest]:
        return [
            RolloutRequest(
                index=index,
                prompt=prompt,
                seeds=tuple(draw_seed(self.seed, *purpose, prompt.id, k) for k in range(group_size)),
            )
            for index, prompt in items
        ]
