"""Which prompts are hard, and what follows from it: CEEH's length term and entropy coefficient.

"Compress the Easy, Explore the Hard", arXiv:2602.22642. A prompt is judged by its own past: the columns
of ``PromptHistory`` reach the pieces as ``batch.history``, one number per prompt [P].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.seen import Seen, Tokens

SCHEDULES = ("half", "literal", "clamped")


def history_column(seen: Seen, name: str) -> Tensor:
    """[P] fp64, a column of the prompts' history; ValueError when the batch carries none."""
    if name not in seen.batch.history:
        known = ", ".join(seen.batch.history) or "none at all"
        raise ValueError(
            f"this piece reads the prompts' history column {name!r} and the batch carries {known}; fill "
            "batch.history from PromptHistory.columns before estimate"
        )
    return seen.batch.history[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class HardPrompts:
    """[P] True where the running accuracy of a prompt lies below the mean over prompts (eq. 10).

    ``flags`` reads both "after" this step's outcomes were taken in or "before"; ``mean`` is over the
    whole "table" of training prompts or over those "visited" so far.
    """

    flags: str = "after"
    mean: str = "table"

    def __post_init__(self) -> None:
        if self.flags not in ("after", "before"):
            raise ValueError(f"flags must be after or before, got {self.flags!r}")
        if self.mean not in ("table", "visited"):
            raise ValueError(f"mean must be table or visited, got {self.mean!r}")

    def __call__(self, seen: Seen) -> Tensor:
        mean = "mean" if self.mean == "table" else "visited_mean"
        is_hard_P = history_column(seen, f"accuracy_{self.flags}") < history_column(
            seen, f"{mean}_{self.flags}"
        )
        seen.notes.mean("ceeh/hard_share", is_hard_P)
        return is_hard_P

    def words(self) -> str:
        over = "all training prompts" if self.mean == "table" else "the prompts visited so far"
        return f"prompts whose running accuracy {self.flags} this step is below the mean over {over}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLength:
    """Correct responses pay for being longer than the prompt's shortest correct one (eqs. 12-14).

    With L_x the length in tokens of the shortest correct response before this step (of this group where
    there was none):

        reward + max(-beta (length - L_x) / L_x, floor)    for correct responses of a prompt that does
                                                           better than its running accuracy

    and the reward unchanged otherwise. With rewards 0 and 1 and a floor above -1, a correct response
    stays above a wrong one.
    """

    beta: float = 0.1
    floor: float = -0.9
    replaces: ClassVar[bool] = False
    needs_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.beta < 0:
            raise ValueError(f"beta must be 0 or more, got {self.beta}")
        if self.floor > 0:
            raise ValueError(f"floor must be 0 or less, it bounds a penalty from below, got {self.floor}")

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        improves_P = history_column(seen, "accuracy_now") > history_column(seen, "accuracy_before")
        record_P = history_column(seen, "shortest_before")
        length_S = batch.length.to(reward_S.dtype)
        correct_length_S = torch.where(batch.correct, length_S, torch.inf)
        present_P = torch.full_like(record_P, torch.inf).scatter_reduce(
            0, batch.group, correct_length_S.to(record_P.dtype), "amin"
        )
        record_S = torch.where(record_P.isinf(), present_P, record_P)[batch.group].to(reward_S.dtype)
        term_S = (-self.beta * (length_S - record_S) / record_S).clamp(min=self.floor)
        seen.notes.mean("ceeh/gate_share", improves_P)
        return torch.where(improves_P[batch.group] & batch.correct, reward_S + term_S, reward_S)

    def words(self) -> str:
        return (
            f"correct responses of prompts that do better than their running accuracy pay {self.beta:g} x "
            f"(length over the shortest correct one - 1), {-self.floor:g} at most"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyByDifficulty:
    """An entropy coefficient that decays over the run and is larger on hard prompts (eq. 11).

    With p the share of the run that lies behind, ``start`` times ``hard_mult`` on hard prompts, times

        half: (1 + cos(pi p)) / 2      literal: cos(pi p)      clamped: max(cos(pi p), 0)
    """

    start: float = 1e-3
    hard_mult: float = 5.0
    schedule: str = "half"
    hard: HardPrompts = field(default_factory=HardPrompts)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"entropy_schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        assert seen is not None, "a rule of scope mini is given the batch"
        is_hard_N = self.hard(seen)[seen.batch.group][tokens.owner]
        easy = self.start * self.share_left(seen.progress)
        coef_N = torch.full_like(tokens.advantage, easy)
        coef_N[is_hard_N] = self.hard_mult * easy
        return coef_N

    def share_left(self, progress: float) -> float:
        """The schedule at ``progress`` of the run: 1 at its start."""
        cosine = math.cos(math.pi * progress)
        match self.schedule:
            case "half":
                return 0.5 * (1.0 + cosine)
            case "clamped":
                return max(cosine, 0.0)
        return cosine

    def words(self) -> str:
        return (
            f"{self.start:g}, {self.hard_mult:g} times that on hard prompts ({self.hard.words()}), "
            f"{self.schedule} cosine over the run"
        )
