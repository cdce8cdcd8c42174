"""What a step asks of the engine: which prompts, from which seeds, how sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from megaent.actor.actor import Placement
from megaent.data.prompts import PromptStream
from megaent.experience.pack import SECOND_ROLLOUT
from megaent.loop.course import Course
from megaent.objective.method import Method
from megaent.randomness import draw_seed
from megaent.rollout.engine import RolloutEngine
from megaent.types import Group, Prompt, RolloutRequest, SamplingParams


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """One replica's side of the sampling; ranks without an engine get no groups."""

    engine: RolloutEngine | None
    layout: Placement
    stream: PromptStream
    course: Course
    sampling: SamplingParams
    group_size: int
    seed: int

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
        mine = [
            (offset + place, prompt)
            for place, prompt in self._stream(step).take(self._batch_number(step, attempt))
            if place % self.layout.dp == self.layout.dp_rank
        ]
        requests = self._requests(mine, ("rollout", step, *([attempt] if attempt else [])), self.group_size)
        return self.engine.generate(requests, self.sampling_at(step))

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

    def _stream(self, step: int) -> PromptStream:
        stage = self.course.phase_at(step).stage
        return self.stream if stage is None else self._stage_stream(stage)

    @lru_cache(maxsize=2)  # noqa: B019 - it lives as long as its process
    def _stage_stream(self, stage: int) -> PromptStream:
        return self.stream.only(self.course.state.stages()[stage])

    def _batch_number(self, step: int, attempt: int) -> int:
        """Which batch of the stream a step takes; a count is only kept where steps take several."""
        phase = self.course.phase_at(step)
        if phase.method.sampling is not None:
            return self.course.state.batches_taken.get(str(phase.stage), 0) + attempt
        return self.course.schedule.steps_before(step, self.course.num_steps)

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
