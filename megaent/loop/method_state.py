"""What a schedule remembers between steps: per-prompt histories, controllers, the curriculum.

Plain numbers and strings, the same on every rank, saved in a checkpoint's state.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from megaent.errors import CheckpointError
from megaent.loop.prompt_draw import PromptDraw
from megaent.objective.history import Outcome, PromptHistory
from megaent.objective.method import Method, Schedule
from megaent.objective.semantic_entropy import curriculum_stages
from megaent.types import Group, Metrics

VERSION = 2


class MethodState:
    """``ids`` are all training prompts: means over the table need the unvisited ones too.

    They are read only where a method has a history.
    """

    def __init__(self, schedule: Schedule, ids: Iterable[str], *, draw: PromptDraw | None = None) -> None:
        methods = [phase.method for phase in schedule.phases]
        rules = next((method.history for method in methods if method.history is not None), None)
        curriculum = next((method.curriculum for method in methods if method.curriculum is not None), None)
        self.history = None if rules is None else PromptHistory(rules, list(ids))
        self.curriculum = curriculum
        self.draw = draw  # of prompts by a curriculum of the data; None asks them in turn
        self.phase = 0  # the phase that the last step belonged to
        self.reference = ""  # folder of the present reference policy in the run directory; "" is the start
        self.batches_taken: dict[str, int] = {}  # by stage, under dynamic sampling, since the run (re)started
        self.semantic_entropy: dict[str, float] = {}  # prompt id -> nats, once measured
        controllers = {piece.name: piece for method in methods for piece in method.controllers}
        self.controllers = {name: piece.start() for name, piece in controllers.items()}

    # ------------------------------------------------------------ through a step

    def coefs(self, method: Method) -> dict[str, float]:
        """What the method's controllers set for the coming step."""
        return {
            name: value
            for piece in method.controllers
            for name, value in piece.coefs(self.controllers[piece.name]).items()
        }

    def commit(self, step: int, outcomes: Sequence[Outcome]) -> None:
        if self.history is not None:
            self.history.commit(step, outcomes)

    def after_step(self, method: Method, metrics: Metrics) -> None:
        if self.draw is not None:
            self.draw.settle()
        for piece in method.controllers:
            self.controllers[piece.name] = piece.update(self.controllers[piece.name], metrics)

    def took(self, stage: int | None, num_batches: int) -> None:
        """A step of dynamic sampling took so many batches of a stage's prompts."""
        self.batches_taken[str(stage)] = self.batches_taken.get(str(stage), 0) + num_batches

    def measured(self, semantic_entropy: Mapping[str, float]) -> None:
        """Of every training prompt, nats by id, under the starting model."""
        self.semantic_entropy = dict(semantic_entropy)

    def enter(self, phase: int, *, reference: str = "") -> None:
        """A phase begins; ``reference`` is the folder of its new reference policy, if it takes one."""
        self.phase, self.reference = phase, reference or self.reference

    def stages(self) -> list[list[str]]:
        """Prompt ids of each stage of the curriculum; the semantic entropies must be there."""
        assert self.curriculum is not None, "a schedule with stages has a curriculum"
        return curriculum_stages(
            self.semantic_entropy, self.curriculum.stages, drop_uniform=self.curriculum.drop_uniform
        )

    # ------------------------------------------------------------ in a checkpoint

    def state(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "phase": self.phase,
            "reference": self.reference,
            "semantic_entropy": self.semantic_entropy,
            "controllers": self.controllers,
            "history": None if self.history is None else self.history.state(),
            "draw": None if self.draw is None else self.draw.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raises CheckpointError for the state of another method or another version."""
        if state.get("version") != VERSION:
            raise CheckpointError(
                f"the checkpoint's method state has version {state.get('version')}, this program reads "
                f"{VERSION}; continue with the version of megaent that wrote it"
            )
        if state["controllers"].keys() != self.controllers.keys():
            raise CheckpointError(
                f"the checkpoint was written with the controllers {sorted(state['controllers'])}, this run "
                f"has {sorted(self.controllers)}; resume with the same method"
            )
        if (state["history"] is None) != (self.history is None):
            raise CheckpointError(
                "the checkpoint and this run differ in whether prompts have a history; resume with the same "
                "method"
            )
        drawn = state.get("draw")
        if (drawn is None) != (self.draw is None):
            raise CheckpointError(
                "the checkpoint and this run differ in whether prompts are drawn by a curriculum; resume "
                "with the same data.curriculum"
            )
        if self.draw is not None and drawn is not None:
            self.draw.load_state(drawn)
        self.phase = int(state["phase"])
        self.reference = str(state["reference"])
        self.semantic_entropy = {str(name): float(value) for name, value in state["semantic_entropy"].items()}
        self.controllers = {
            name: {key: float(value) for key, value in values.items()}
            for name, values in state["controllers"].items()
        }
        if self.history is not None:
            try:
                self.history.load_state(state["history"])
            except ValueError as error:
                raise CheckpointError(str(error)) from error


def outcome(group: Group) -> Outcome:
    """What a graded group leaves in the history."""
    correct = [
        len(response.tokens)
        for response, grade in zip(group.responses, group.grades, strict=True)
        if grade.correct
    ]
    return Outcome(
        prompt_id=group.prompt.id,
        num_responses=len(group.responses),
        num_correct=len(correct),
        shortest_correct=min(correct, default=None),
    )
