"""Where each stage's stream of prompts stands, counted in prompts, so that a resumed run's steps may have
another size and still ask every question once an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megaent.data.prompts import Sizes
from megaent.loop.course import Course


class Cursor:
    """What had been asked at the step that a run was resumed from, 0 for a new one; the rest follows."""

    def __init__(self, course: Course, per_step: int) -> None:
        self._course, self._per_step = course, per_step
        self._step = 0
        self._asked: dict[str, int] = {}  # prompts, by stage
        self._sizes: dict[str, Sizes] = {}

    def place(self, step: int, attempt: int = 0) -> int:
        """How many prompts of its stage were asked before a batch of ``step``."""
        return self._before(self._course.phase_at(step).stage, step) + attempt * self._per_step

    def sizes(self, stage: int | None) -> Sizes:
        return self._sizes.get(str(stage), ((0, self._per_step),))

    def _before(self, stage: int | None, step: int) -> int:
        course = self._course
        batches = course.state.batches_taken.get(str(stage), 0) + course.schedule.steps_of_stage(
            stage, after=self._step, before=step, num_steps=course.num_steps
        )
        return self._asked.get(str(stage), 0) + batches * self._per_step

    # ------------------------------------------------------------ in a checkpoint

    def state(self, step: int) -> dict[str, Any]:
        """After ``step``: by stage the prompts asked, and from which on in steps of which size."""
        asked = {stage: self._before(stage, step + 1) for stage in self._course.stages}
        return {
            str(stage): {"asked": count, "sizes": [list(size) for size in self.sizes(stage)]}
            for stage, count in asked.items()
            if count
        }

    def load_state(self, step: int, state: Mapping[str, Any]) -> None:
        """Go on after ``step`` of a run whose steps may have had another size."""
        self._step = step
        self._course.state.batches_taken.clear()
        for stage, found in state.items():
            self._asked[stage] = found["asked"]
            sizes = tuple((start, size) for start, size in found["sizes"])
            is_resized = sizes[-1][1] != self._per_step
            self._sizes[stage] = (*sizes, (found["asked"], self._per_step)) if is_resized else sizes
