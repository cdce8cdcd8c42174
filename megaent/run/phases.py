"""What a schedule asks for before some steps: a curriculum measured, a new reference or optimizer."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from megaent.loop.curriculum import measure_semantic_entropy
from megaent.loop.trainer import Trainer
from megaent.model_folder.hf_folder import write_weights

log = logging.getLogger(__name__)


class Phases:
    """``run`` is the directory in which reference policies are kept. Every method is a collective."""

    def __init__(self, trainer: Trainer, run: Path) -> None:
        self._trainer, self._run = trainer, run

    def prepare(self) -> None:
        """Semantic entropies of the training prompts under the starting model, if a curriculum asks."""
        state = self._trainer.course.state
        if state.curriculum is None or state.semantic_entropy:
            return
        started = time.perf_counter()
        state.measured(measure_semantic_entropy(self._trainer, state.curriculum))
        log.info(
            "measured the semantic entropy of %d prompts in %.1f s",
            len(state.semantic_entropy),
            time.perf_counter() - started,
        )

    def enter(self, step: int) -> None:
        """Where a phase begins with ``step``: its new reference policy, its new optimizer."""
        course = self._trainer.course
        number = course.schedule.number_at(step, course.num_steps)
        if number == course.state.phase:
            return
        phase, reference = course.schedule.phases[number], ""
        log.info("step %d begins the phase %r", step, phase.name)
        if phase.reset_reference and course.schedule.needs_reference:
            reference = f"references/{number}"
            self._write_reference(self._run / reference)
        if phase.reset_optimizer:
            self._trainer.actor.reset_optimizer()
        course.state.enter(number, reference=reference)

    def _write_reference(self, folder: Path) -> None:
        """The present policy as the reference, kept as a Hugging Face folder for a later resume."""
        actor = self._trainer.actor
        if actor.layout.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_weights(folder, actor.named_weights())
        else:
            for _ in actor.named_weights():
                pass
        actor.layout.barrier()
        actor.keep_reference(folder)
