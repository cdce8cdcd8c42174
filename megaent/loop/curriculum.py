"""The pass before training that a curriculum needs: how undecided the starting model is on each prompt."""

from __future__ import annotations

from megaent.loop.trainer import Trainer
from megaent.objective.method import Curriculum
from megaent.objective.semantic_entropy import response_log_weight, semantic_entropy
from megaent.types import Group

_PROMPTS_AT_ONCE = 64  # a replica's memory holds the responses to so many


def measure_semantic_entropy(trainer: Trainer, curriculum: Curriculum) -> dict[str, float]:
    """Nats per training prompt id, from ``curriculum.responses`` responses each. A collective.

    Drawn from seeds of their own, so a run that is started again measures the same.
    """
    measured: list[tuple[str, float]] = []
    prompts = trainer.collector.task.train
    at_once = _PROMPTS_AT_ONCE * trainer.layout.dp
    for first in range(0, len(prompts), at_once):
        groups = trainer.collector.respond(
            prompts[first : first + at_once],
            ("semantic entropy", first),
            group_size=curriculum.responses,
            sampling=trainer.collector.generation.sampling,
        )
        mine = [(group.prompt.id, _of_group(group, curriculum.weights)) for group in groups]
        mine = trainer.layout.share(mine if trainer.layout.is_leader else None)
        measured += trainer.layout.gather_over_replicas(mine)
    trainer.clock.take()
    return dict(sorted(measured))


def _of_group(group: Group, weights: str) -> float:
    return semantic_entropy(
        [grade.answer for grade in group.grades],
        [response_log_weight(response, weights) for response in group.responses],
    )
