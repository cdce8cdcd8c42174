"""``data.curriculum``: which prompts a step prefers, by what is known of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from megaent.data.forms import LABELS
from megaent.errors import DataError
from megaent.options import require, require_fraction
from megaent.types import Prompt

KINDS = ("difficulty", "accuracy", "semantic_entropy")
_LABELS = ("difficulty", "level")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\d+(?:\.\d+)?")


@dataclass
class CurriculumOptions:
    """What ``by`` prefers (docs/tasks.md); every step draws anew, none of its prompts twice.

    difficulty: the easiest share of the prompts is open, from ``start`` on and growing evenly until all are
    open after the share ``until`` of the steps. accuracy: prompts that are neither always nor never answered
    rightly. semantic_entropy: prompts whose answers differ.
    """

    by: str = ""  # difficulty | accuracy | semantic_entropy; "" asks every prompt once an epoch
    label: str = ""  # that says the difficulty as a number; "" is difficulty, level or the split
    start: float = 0.25
    until: float = 0.5
    floor: float = 0.05  # weight of a prompt that teaches nothing, beside 1 for one that teaches most

    def __post_init__(self) -> None:
        require(
            self.by in ("", *KINDS), f"data.curriculum.by must be one of {', '.join(KINDS)}, got {self.by!r}"
        )
        own = {"difficulty": ("label", "start", "until"), "": ()}.get(self.by, ("floor",))
        for name in ("label", "start", "until", "floor"):
            require(
                name in own or getattr(self, name) == getattr(CurriculumOptions, name),
                f"data.curriculum.{name} has no effect with data.curriculum.by={self.by}; leave it out",
            )
        require_fraction("data.curriculum", start=self.start, until=self.until, floor=self.floor)

    @property
    def learns(self) -> bool:
        """From the answers of earlier steps."""
        return self.by in ("accuracy", "semantic_entropy")


def difficulties(prompts: Sequence[Prompt], label: str) -> list[float]:
    """Of each prompt. Raises DataError for one that says none."""
    return [_difficulty(prompt, label) for prompt in prompts]


def _difficulty(prompt: Prompt, label: str) -> float:
    labels = dict(prompt.labels)
    told = labels.get(label, "") if label else _first(labels, prompt.split)
    number = _NUMBER.search(told)
    if number is None:
        raise DataError(
            f"data.curriculum.by=difficulty needs a number in {label or 'difficulty, level or the split'} of "
            f"every prompt, and {prompt.id} has {told!r}; name another data.curriculum.label, or add the "
            f"column (of a file's, {', '.join(LABELS)} are kept)"
        )
    return float(number[0])


def _first(labels: dict[str, str], split: str) -> str:
    return next((labels[name] for name in _LABELS if name in labels), split)
