"""Rewards that look at the length of a response: tokens including the stop token, T below."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.checks import require
from megaent.objective.seen import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlong:
    """``r + factor * min((max_length - buffer - T) / buffer, 0)``: the last ``buffer`` tokens cost.

    Yu et al. 2025, "DAPO", arXiv:2503.14476, the soft overlong punishment. Where the paper stops at
    -1, verl's form, used here, goes on falling for a response longer than ``max_length`` tokens.
    """

    max_length: int = 20480  # tokens
    buffer: int = 4096  # tokens
    factor: float = 1.0
    replaces: ClassVar[bool] = False
    needs_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(0 < self.buffer <= self.max_length, "buffer", f"lie in [1, {self.max_length}]", self.buffer)
        require(self.factor >= 0, "factor", "be 0 or more", self.factor)

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        excess_S = seen.batch.length.to(reward_S.dtype) - (self.max_length - self.buffer)
        penalty_S = (-excess_S / self.buffer * self.factor).clamp(max=0.0)
        seen.notes.mean("overlong/penalty", -penalty_S)
        return reward_S + penalty_S

    def words(self) -> str:
        return f"minus {self.factor:g} x the share used of the last {self.buffer} of {self.max_length} tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearLength:
    """``r - coef * T / max_length``, of correct responses alone if asked: the naive length penalty."""

    coef: float
    max_length: int  # tokens
    only_correct: bool = False
    replaces: ClassVar[bool] = False
    needs_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.max_length > 0, "max_length", "be above 0 tokens", self.max_length)
        require(self.coef >= 0, "coef", "be 0 or more", self.coef)

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        penalty_S = self.coef * seen.batch.length.to(reward_S.dtype) / self.max_length
        if self.only_correct:
            penalty_S = torch.where(seen.batch.correct, penalty_S, 0.0)
        seen.notes.mean("linear_length/penalty", penalty_S)
        return reward_S - penalty_S

    def words(self) -> str:
        who = "correct responses" if self.only_correct else "every response"
        return f"minus {self.coef:g} x length / {self.max_length} tokens, {who}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigmoidLength:
    """``correct * (1 - alpha * sigmoid((T - mean) / (std + 1e-7)))``, 0 for a response cut by the limit.

    Arora and Zanette 2025, "Training Language Models to Reason Efficiently", arXiv:2502.04463. Mean and
    (population) standard deviation are those of the lengths of the group's correct responses.
    """

    alpha: float = 1.0
    replaces: ClassVar[bool] = True
    needs_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, "alpha", "lie in [0, 1]", self.alpha)

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        correct_S, length_S = batch.correct.to(reward_S.dtype), batch.length.to(reward_S.dtype)
        zeros_P = reward_S.new_zeros(len(batch.prompts))
        count_P = zeros_P.index_add(0, batch.group, correct_S).clamp(min=1)
        mean_P = zeros_P.index_add(0, batch.group, correct_S * length_S) / count_P
        above_S = length_S - mean_P[batch.group]
        std_P = (zeros_P.index_add(0, batch.group, correct_S * above_S.square()) / count_P).sqrt()
        shorter_S = 1.0 - self.alpha * torch.sigmoid(above_S / (std_P[batch.group] + 1e-7))
        return torch.where(batch.correct & ~batch.truncated, shorter_S, 0.0)

    def words(self) -> str:
        return (
            f"1 - {self.alpha:g} x sigmoid(standardised length among the group's correct responses) "
            "if correct, else 0"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine:
    """Half a cosine in length: from ``short`` at 0 tokens to ``long`` at ``max_length``.

    Yeo et al. 2025, "Demystifying Long Chain-of-Thought Reasoning in LLMs", arXiv:2502.03373. Correct
    responses fall from 1 to 0 as they grow, wrong ones rise from -1 to 0 (the authors' code; the paper
    has other values); a response cut by the limit, or longer than ``max_length``, gets ``exceeded``.
    """

    max_length: int  # tokens
    correct_short: float = 1.0
    correct_long: float = 0.0
    wrong_short: float = -1.0
    wrong_long: float = 0.0
    exceeded: float = -1.0
    replaces: ClassVar[bool] = True
    needs_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.max_length > 0, "max_length", "be above 0 tokens", self.max_length)

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        length_S = batch.length.to(reward_S.dtype)
        near_S = (1.0 + (math.pi * length_S / self.max_length).cos()) / 2  # 1 at 0 tokens, 0 at max_length
        right_S = self.correct_long + (self.correct_short - self.correct_long) * near_S
        wrong_S = self.wrong_long + (self.wrong_short - self.wrong_long) * near_S
        is_over_S = batch.truncated | (batch.length > self.max_length)
        return torch.where(is_over_S, self.exceeded, torch.where(batch.correct, right_S, wrong_S))

    def words(self) -> str:
        return (
            f"a half cosine over {self.max_length} tokens: correct {self.correct_short:g} to "
            f"{self.correct_long:g}, wrong {self.wrong_short:g} to {self.wrong_long:g}, "
            f"longer {self.exceeded:g}"
        )


def overlong(max_length: int, buffer: int, factor: float) -> tuple[Overlong, ...]:
    """The soft overlong punishment; nothing for a ``max_length`` of 0."""
    return (Overlong(max_length=max_length, buffer=buffer, factor=factor),) if max_length else ()
