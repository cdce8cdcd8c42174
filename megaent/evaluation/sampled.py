"""Held-out prompts answered by the present policy, graded, scored and summarised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from megaent.errors import DataError
from megaent.evaluation.statistics import EvaluationSummary, by_split, prompt_outcomes, summarise
from megaent.experience.pack import pack
from megaent.loop.trainer import Trainer
from megaent.types import Prompt, SamplingParams


def evaluate(
    trainer: Trainer, prompts: Sequence[Prompt], *, group_size: int, sampling: SamplingParams, seed: int
) -> dict[str, EvaluationSummary]:
    """ "all" and one entry per split, from seeds of their own. A collective.

    Raises DataError where there is no prompt.
    """
    layout = trainer.layout
    groups = trainer.collector.respond(prompts, ("evaluate", seed), group_size=group_size, sampling=sampling)
    batch = layout.share(pack(groups) if layout.is_leader else None)
    batch = trainer.actor.score(batch, temperature=sampling.temperature)
    outcomes = layout.gather_over_replicas(prompt_outcomes(batch))
    if not outcomes:
        raise DataError(
            "there is no held-out prompt to evaluate on; give data.eval_path or raise evaluate.prompts"
        )
    return {"all": summarise(outcomes)} | {
        split: summarise(part) for split, part in by_split(outcomes).items() if split
    }


def as_numbers(summaries: dict[str, EvaluationSummary]) -> dict[str, float]:
    """``accuracy`` of all, ``easy/accuracy`` of the split "easy"; what is not known is left out."""
    return {
        name if split == "all" else f"{split}/{name}": float(value)
        for split, summary in summaries.items()
        for name, value in asdict(summary).items()
        if value is not None
    }
