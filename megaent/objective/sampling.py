"""Dynamic sampling: which groups are worth training on, and whether others are drawn for the rest."""

from __future__ import annotations

from collections.abc import Sequence

from megaent.objective.checks import require
from megaent.objective.method import DynamicSampling


def teaches(numbers: Sequence[float]) -> bool:
    """Whether a group's numbers (rewards, or correct or not) differ, or it is alone.

    Of equal numbers every group-relative advantage is 0. Yu et al. 2025, "DAPO", arXiv:2503.14476, keep what
    teaches and draw new prompts for the rest.
    """
    return len(numbers) == 1 or any(number != numbers[0] for number in numbers)


def dynamic_sampling(max_batches: int) -> DynamicSampling | None:
    """By its option: at most so many batches of prompts a step; 1 drops without drawing again, 0 is off."""
    require(max_batches >= 0, "max_batches", "be 0 (off) or more", max_batches)
    return DynamicSampling(max_batches=max_batches) if max_batches else None
