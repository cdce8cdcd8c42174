"""``data``: what every task can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from megaent.data.curriculum import CurriculumOptions
from megaent.options import MISSING, require


@dataclass
class DataOptions:
    """Fields that every task has."""

    name: str = MISSING
    train_prompts: int = 0  # distinct training prompts; 0 means as many as the task has
    seed: int = 0
    curriculum: CurriculumOptions = field(default_factory=CurriculumOptions)

    def __post_init__(self) -> None:
        require(self.train_prompts >= 0, f"data.train_prompts must be 0 or more, got {self.train_prompts}")

    def require_files(self) -> None:
        """Raises DataError for files that are named and are not there."""
