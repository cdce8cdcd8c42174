"""Short answers first, then exploration: the rewards and advantages of EGRC and of its entangled baseline.

"Entropy-Guided Reasoning Compression", arXiv:2511.14258. The compressing stage learns from correct
responses alone, each worth more the shorter it is; the exploring stage is GRPO with a length penalty.
The baseline EE does both at once, prompt by prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.method import Advantage, RewardTerm
from megaent.objective.seen import Seen, Tokens

SHAPES = ("exponent", "linear", "cosine")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortCorrect:
    """``f(length)`` for a correct response of at most ``max_length`` tokens L, else 0.

    f falls from f(0) = 1 to f(L) = r, the ``reward_at_limit``:

        exponent   exp(-decay x), decay = -ln(r) / L      (the paper's)
        linear     1 - (1 - r) x / L                      cosine   r + (1 - r) (1 + cos(pi x / L)) / 2
    """

    max_length: int = 4096  # tokens, the stop token included
    reward_at_limit: float = 0.1
    shape: str = "exponent"
    replaces: ClassVar[bool] = True
    needs_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length must be 1 token or more, got {self.max_length}")
        if not 0 < self.reward_at_limit <= 1:
            raise ValueError(f"reward_at_limit must lie in (0, 1], got {self.reward_at_limit}")
        if self.shape not in SHAPES:
            raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {self.shape!r}")

    @property
    def decay(self) -> float:
        """Of the exponent, per token."""
        return -math.log(self.reward_at_limit) / self.max_length

    def factor(self, length_S: Tensor) -> Tensor:
        """[S] f of lengths in tokens."""
        share_S = length_S / self.max_length
        span = 1.0 - self.reward_at_limit
        match self.shape:
            case "linear":
                return 1.0 - span * share_S
            case "cosine":
                return self.reward_at_limit + span * 0.5 * (1.0 + (math.pi * share_S).cos())
        return (-self.decay * length_S).exp()

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        is_good_S = batch.correct & (batch.length <= self.max_length)
        return torch.where(is_good_S, self.factor(batch.length.to(reward_S.dtype)), 0.0)

    def words(self) -> str:
        return (
            f"correct responses of at most {self.max_length} tokens earn 1, falling with "
            f"their length to {self.reward_at_limit:g} ({self.shape}); all others earn 0"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatAndLength:
    """The reward, plus ``format_weight`` for a readable answer, minus a penalty beyond ``max_length``.

    The penalty is ``penalty`` for every ``per`` tokens beyond, in proportion or, with ``in_steps``, for
    full ones only; ``at_most`` bounds it. A batch that does not say which answers were readable counts
    all as readable, which shifts every reward by the same and so changes no group-relative advantage.
    """

    max_length: int = 4096  # tokens
    format_weight: float = 1.0
    penalty: float = 0.25
    per: int = 1000  # tokens
    in_steps: bool = False
    at_most: float | None = None
    replaces: ClassVar[bool] = False
    needs_entropy: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.per < 1:
            raise ValueError(f"penalty_per must be 1 token or more, got {self.per}")
        if self.penalty < 0:
            raise ValueError(f"penalty must be 0 or more, it is subtracted, got {self.penalty}")
        if self.at_most is not None and self.at_most < 0:
            raise ValueError(f"penalty_at_most must be 0 or more, got {self.at_most}")

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        format_ok_S = torch.ones_like(batch.correct) if batch.format_ok is None else batch.format_ok
        excess_S = (batch.length - self.max_length).clamp(min=0).to(reward_S.dtype) / self.per
        if self.in_steps:
            excess_S = excess_S.floor()
        penalty_S = self.penalty * excess_S
        if self.at_most is not None:
            penalty_S = penalty_S.clamp(max=self.at_most)
        return reward_S + self.format_weight * format_ok_S.to(reward_S.dtype) - penalty_S

    def words(self) -> str:
        full = "full " if self.in_steps else ""
        bound = "" if self.at_most is None else f", {self.at_most:g} at most"
        return (
            f"plus {self.format_weight:g} for a readable answer, minus {self.penalty:g} per {full}{self.per} "
            f"tokens beyond {self.max_length}{bound}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Absolute:
    """``A = coef x reward``: nothing is compared, equal rewards teach too."""

    coef: float = 1.0
    group_relative: ClassVar[bool] = False

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        return self.coef * reward_S

    def words(self) -> str:
        return f"{self.coef:g} x reward, no baseline"


# ---------------------------------------------------------------- per group


@dataclass(frozen=True, slots=True, kw_only=True)
class AccurateGroups:
    """[P] True for groups of which at least the share ``threshold`` is correct; above 1, for none."""

    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must be 0 or more, got {self.threshold}")

    def __call__(self, seen: Seen) -> Tensor:
        batch = seen.batch
        num_groups = len(batch.prompts)
        correct_P = torch.bincount(batch.group, weights=batch.correct.double(), minlength=num_groups)
        count_P = torch.bincount(batch.group, minlength=num_groups)
        return correct_P >= self.threshold * count_P

    def words(self) -> str:
        return f"groups at least {self.threshold:g} correct"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardByAccuracy:
    """One reward in accurate groups, another in the rest."""

    groups: AccurateGroups
    accurate: RewardTerm
    rest: RewardTerm
    # Two rewards from scratch would undo each other, and one of the two here is.
    replaces: ClassVar[bool] = True
    needs_entropy: ClassVar[bool] = False

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        is_accurate_P = self.groups(seen)
        seen.notes.mean("egrc/compress_share", is_accurate_P)
        return torch.where(
            is_accurate_P[seen.batch.group], self.accurate(reward_S, seen), self.rest(reward_S, seen)
        )

    def words(self) -> str:
        return f"in {self.groups.words()}: {self.accurate.words()}; in others: {self.rest.words()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageByAccuracy:
    """One advantage in accurate groups, another in the rest."""

    groups: AccurateGroups
    accurate: Advantage
    rest: Advantage
    group_relative: ClassVar[bool] = False

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        is_accurate_S = self.groups(seen)[seen.batch.group]
        return torch.where(is_accurate_S, self.accurate(reward_S, seen), self.rest(reward_S, seen))

    def words(self) -> str:
        return f"in {self.groups.words()}: {self.accurate.words()}; in others: {self.rest.words()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PositiveOnly:
    """Weight 1 where the advantage is above 0, else 0; ``groups`` limits the rule to accurate groups.

    Reports ``egrc/positive_share`` of the trained tokens under the rule, and ``egrc/empty_minibatches``,
    the share of optimizer steps in which it leaves no token.
    """

    groups: AccurateGroups | None = None

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        assert seen is not None, "a rule of scope mini is given the batch"
        positive_N = tokens.advantage > 0
        ruled_N = torch.ones_like(positive_N)
        if self.groups is not None:
            ruled_N = self.groups(seen)[seen.batch.group][tokens.owner]
        kept_N = positive_N | ~ruled_N
        left_M = tokens.total(kept_N.double())
        seen.notes.mean("egrc/positive_share", positive_N, ruled_N & tokens.mask)
        seen.notes.mean("egrc/empty_minibatches", left_M == 0)
        return kept_N.to(tokens.advantage.dtype)

    def words(self) -> str:
        where = "" if self.groups is None else f" in {self.groups.words()}"
        return f"1 where the advantage is above 0, else 0{where}"
