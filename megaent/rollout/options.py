"""``rollout``: what every engine can be told, and what it must know of the rank that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.options import MISSING, require, require_fraction, require_positive

if TYPE_CHECKING:
    import torch


@dataclass
class RolloutOptions:
    """Fields that every engine has."""

    name: str = MISSING
    prompts_per_step: int = 16
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    mismatch_limit: float = 0.0  # nats, mean |log_prob_old - log_prob_engine|; 0 only reports
    staleness: int = 0  # steps that generation runs ahead of training; 0 is synchronous, 1 one step off

    def __post_init__(self) -> None:
        require_positive(
            "rollout",
            prompts_per_step=self.prompts_per_step,
            group_size=self.group_size,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        require_fraction("rollout", top_p=self.top_p)
        require(self.staleness >= 0, f"rollout.staleness must be 0 or more, got {self.staleness}")


@dataclass
class FakeOptions(RolloutOptions):
    """``rollout=fake``: deterministic tokens, no model; for tests of the loop."""

    name: str = "fake"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """The rank that holds an engine."""

    model: Path  # Hugging Face folder that the run starts from
    run: Path  # directory of the run
    number: int  # among the data-parallel leaders
    vocab_size: int
    context_length: int  # of the model, tokens
    dtype: str  # of the model
    device: torch.device
    place: int = 0  # among the leaders on its machine
