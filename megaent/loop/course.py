"""Where a step stands in the run: its phase and method, and what is known of its prompts' past."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megaent.actor.actor import Placement
from megaent.loop.method_state import MethodState
from megaent.objective.method import Method, Phase, Schedule
from megaent.objective.seen import Seen
from megaent.types import Experience


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """A schedule over ``num_steps``; phases and annealed coefficients depend on them all."""

    schedule: Schedule
    state: MethodState
    num_steps: int
    layout: Placement

    @property
    def stages(self) -> tuple[int | None, ...]:
        """Of the curriculum, each once; None where a phase asks all prompts."""
        return tuple(dict.fromkeys(phase.stage for phase in self.schedule.phases))

    def phase_at(self, step: int) -> Phase:
        return self.schedule.phases[self.schedule.number_at(step, self.num_steps)]

    def method_at(self, step: int) -> Method:
        return self.phase_at(step).method

    def begins_phase(self, step: int) -> bool:
        return step == 1 or self.phase_at(step) is not self.phase_at(step - 1)

    def with_history(self, step: int, batch: Experience) -> Experience:
        """The batch with what its prompts' past tells, as it was before ``step``."""
        if self.state.history is None:
            return batch
        columns = self.state.history.columns(step, [prompt.id for prompt in batch.prompts])
        return replace(batch, history=columns)

    def seen(self, step: int, batch: Experience, num_minibatches: int) -> Seen:
        """What the step's method may look at."""
        assert batch.minibatch is not None, "the trainer assigns minibatches when it packs"
        return Seen(
            batch=batch,
            population=self.layout,
            minibatch_S=batch.minibatch,
            num_minibatches=num_minibatches,
            progress=(step - 1) / max(self.num_steps, 1),
            coefs=self.state.coefs(self.method_at(step)),
        )
