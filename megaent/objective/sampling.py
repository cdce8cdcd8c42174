"""Dynamic sampling: which groups are worth training on, and whether others are drawn for the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megaent.objective.checks import require
from megaent.objective.estimate import shaped_rewards
from megaent.objective.method import DynamicSampling, Method
from megaent.objective.seen import Seen

METRICS = ("accuracy", "shaped")


def teaches(numbers: Sequence[float]) -> bool:
    """Whether a group's numbers (rewards, or correct or not) differ, or it is alone.

    Of equal numbers every group-relative advantage is 0. Yu et al. 2025, "DAPO", arXiv:2503.14476, keep what
    teaches and draw new prompts for the rest.
    """
    return len(numbers) == 1 or any(number != numbers[0] for number in numbers)


def informative(method: Method, seen: Seen) -> list[bool]:
    """[P] whether each group teaches something, by the metric of the method's dynamic sampling.

    The batch need not be scored. A collective where a reward term asks the population.
    """
    assert method.sampling is not None, "asked of a method with dynamic sampling"
    batch = seen.batch
    by_grade = method.sampling.metric == "accuracy"
    number_S = batch.correct.double() if by_grade else shaped_rewards(method, seen)
    size_P = torch.bincount(batch.group, minlength=len(batch.prompts))
    return [teaches(numbers.tolist()) for numbers in number_S.split(size_P.tolist())]


def dynamic_sampling(max_batches: int, metric: str = "accuracy") -> DynamicSampling | None:
    """By its options: at most so many batches of prompts a step; 1 drops without drawing again, 0 is off."""
    require(max_batches >= 0, "max_batches", "be 0 (off) or more", max_batches)
    require(metric in METRICS, "metric", f"be one of {', '.join(METRICS)}", metric)
    if max_batches:
        return DynamicSampling(max_batches=max_batches, metric=metric)
    require(metric == "accuracy", "metric", "stay accuracy where max_batches is 0 (off)", metric)
    return None
