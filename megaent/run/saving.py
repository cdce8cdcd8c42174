"""What a checkpoint holds beside the weights, and how a run is written down and found again."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from megaent.actor.actor import Actor, Placement
from megaent.errors import CheckpointError
from megaent.loop.trainer import Trainer
from megaent.run.checkpoint import CheckpointStore, newest_valid, read_state, save_checkpoint
from megaent.run.identity import require_same

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """The run after ``step`` steps, as JSON gives it back."""

    step: int
    optimizer_steps: int
    layout: str  # that it was saved under; any other loads it
    architecture: dict[str, Any]
    reference: str | None  # digest of the reference policy's files
    method: dict[str, Any]
    prompts: dict[str, Any]  # asked so far, by stage
    identity: dict[str, str]  # megaent.run.identity
    before: dict[str, float] | None  # the evaluation before the first step
    seconds: float  # of the run so far, waits included

    @classmethod
    def read(cls, checkpoint: Path) -> RunState:
        """Raises CheckpointError when ``state.json`` is damaged or of another version of megaent."""
        found = read_state(checkpoint)
        lacking = [field.name for field in fields(cls) if field.name not in found]
        if lacking:
            raise CheckpointError(
                f"{checkpoint}/state.json lacks {', '.join(lacking)}: it was written by another version of "
                "megaent"
            )
        return cls(**{field.name: found[field.name] for field in fields(cls)})  # type: ignore[arg-type]


class Saver:
    """Checkpoints of one run. Every method is a collective.

    ``changed`` names the parts of its ``identity`` that a resumed run has other values of on purpose.
    """

    def __init__(
        self,
        trainer: Trainer,
        run: Path,
        *,
        keep: int,
        identity: Mapping[str, str],
        changed: Collection[str] = (),
    ) -> None:
        self._trainer, self._run = trainer, run
        self._identity, self._changed = dict(identity), changed
        self.newest: int | None = None  # the step of the newest checkpoint that this process knows
        self.seconds = 0.0  # that the last save took
        self._store = CheckpointStore(run / "checkpoints", keep=keep)

    @property
    def _actor(self) -> Actor:
        return self._trainer.actor

    @property
    def _layout(self) -> Placement:
        return self._trainer.layout

    def save(self, step: int, *, before: dict[str, float] | None, seconds: float) -> None:
        """A checkpoint of ``step``. Either it is whole or it is not there."""
        started = time.perf_counter()
        state = RunState(
            step=step,
            optimizer_steps=self._actor.optimizer_steps,
            layout=str(self._layout),
            architecture=self._actor.identity,
            reference=self._actor.reference_digest,
            method=self._trainer.course.state.state(),
            prompts=self._trainer.collector.generation.cursor.state(step),
            identity=self._identity,
            before=before,
            seconds=seconds,
        )
        save_checkpoint(
            self._store, step, write_model=self._write_model, state=asdict(state), ranks=self._layout
        )
        self.newest, self.seconds = step, time.perf_counter() - started
        log.info("saved the checkpoint of step %d in %.1f s", step, self.seconds)

    def _write_model(self, folder: Path) -> None:
        self._actor.save(folder)
        self._trainer.collector.source.save(folder)

    def restore(self) -> RunState | None:
        """Load the newest checkpoint that verifies; None for a run that has none."""
        path, refused = newest_valid(self._store, self._layout)
        if self._layout.rank == 0:
            for problem in refused:
                print(f"megaent: a damaged checkpoint is passed over: {problem}", file=sys.stderr, flush=True)
        return None if path is None else self._load(path)

    def _load(self, path: Path) -> RunState:
        state, actor = RunState.read(path), self._actor
        if state.architecture != actor.identity:
            raise CheckpointError(
                f"{path} is of another model: {state.architecture}, this run's is {actor.identity}"
            )
        require_same(path, state.identity, self._identity, changed=self._changed)
        self._trainer.course.state.load_state(state.method)
        self._restore_reference(path, state)
        actor.load(path / "model")
        self._restore_prompts(path, state)
        actor.optimizer_steps = state.optimizer_steps
        self.newest = state.step
        return state

    def _restore_prompts(self, path: Path, state: RunState) -> None:
        """Which prompts come next; what was drawn ahead for steps of another size is drawn anew."""
        generation = self._trainer.collector.generation
        generation.go_on(state.step, state.prompts)
        sizes = {stage["sizes"][-1][1] for stage in state.prompts.values()}
        if sizes <= {generation.stream.per_step}:
            self._trainer.collector.source.load(path / "model")

    def _restore_reference(self, path: Path, state: RunState) -> None:
        actor, reference = self._actor, self._trainer.course.state.reference
        if reference:
            actor.load_folder(self._run / reference)  # until the checkpoint's weights take their place
            actor.keep_reference(self._run / reference)
        if state.reference != actor.reference_digest:
            raise CheckpointError(
                f"{path} was trained against the reference policy {state.reference}, this run's is "
                f"{actor.reference_digest}; start from the same model.path and with the same method"
            )
