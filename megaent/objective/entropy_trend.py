"""Reward the decline of entropy from one reasoning step to the next: ETR.

Entropy Trend Reward, arXiv:2604.05355. A response is cut into steps; falls of the mean entropy between
neighbouring steps are summed with momentum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.seen import Seen

NUM_TOP = 5  # log-probs of a token that "top5" reads


def entropy_trend(
    step_entropy: Sequence[float], *, gamma: float, fall_weight: float = 1.0, rise_weight: float = 1.0
) -> float:
    """Sum over steps t >= 2 of ``S_t = gamma S_{t-1} + fall_weight fall_t - rise_weight rise_t``; S_1 = 0.

    fall_t and rise_t are the positive parts of H_{t-1} - H_t and of its negative, H the step entropies.
    With both weights 1 the sum has the closed form (eqs. 5-8)
    ``sum_t (1 - gamma^(T-t+1)) / (1 - gamma) (H_{t-1} - H_t)``. It is 0 for fewer than two steps.
    """
    total = momentum = 0.0
    for before, now in itertools.pairwise(step_entropy):
        change = fall_weight * (before - now) if before > now else -rise_weight * (now - before)
        momentum = gamma * momentum + change
        total += momentum
    return total


def step_entropies(entropy_L: Tensor, closes_L: Tensor, *, keep_tail: bool = True) -> list[float]:
    """Mean entropy of each step of one response; a step ends with a token that closes it.

    What stands after the last such token is a step of its own if ``keep_tail``, else left out.
    """
    # A closing token still belongs to the step it closes.
    step_L = closes_L.long().cumsum(0) - closes_L.long()
    num_steps = int(closes_L.sum()) + int(keep_tail and closes_L.numel() > 0 and not bool(closes_L[-1]))
    is_in_L = step_L < num_steps
    sums = torch.zeros(num_steps, dtype=torch.float64)
    sums.index_add_(0, step_L[is_in_L], entropy_L[is_in_L].double())
    return (sums / torch.bincount(step_L[is_in_L], minlength=num_steps)).tolist()


def top_entropy(top_log_prob_TK: Tensor) -> Tensor:
    """[T] ``-sum p ln p / ln 5`` over the five most probable tokens, not renormalised: at most about 1."""
    if top_log_prob_TK.ndim != 2 or top_log_prob_TK.shape[1] < NUM_TOP:
        raise ValueError(
            f"entropy=top5 needs top_log_prob of shape [T, {NUM_TOP}] or wider, got "
            f"{list(top_log_prob_TK.shape)}; ask the engine for {NUM_TOP} top log-probs"
        )
    log_prob_TK = top_log_prob_TK[:, :NUM_TOP]
    return -torch.special.xlogy(log_prob_TK.exp(), log_prob_TK.exp()).sum(1) / math.log(NUM_TOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyTrend:
    """``-1`` for a wrong response, ``1 + coef x trend`` for a correct one; replaces the reward.

    ``entropy`` "full" is the old policy's over the whole vocabulary in nats, "top5" that of the engine's
    five most probable tokens. A step ends where the sampled token closes it, or with ``closed_by_top``
    where the most probable one would have. ``limit`` bounds |coef x trend|. ``no_step_reward`` is what a
    response without any step gets, right or wrong; None treats it like one without a trend.
    """

    coef: float = 0.005
    gamma: float = 0.9
    fall_weight: float = 1.0
    rise_weight: float = 1.0
    entropy: str = "full"
    closed_by_top: bool = False
    keep_tail: bool = True
    limit: float | None = None
    no_step_reward: float | None = None
    replaces: ClassVar[bool] = True
    needs_entropy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.entropy not in ("full", "top5"):
            raise ValueError(f"entropy must be full or top5, got {self.entropy!r}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must lie in [0, 1], got {self.gamma}")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"clip_r_ent must be 0 or more, or null for none, got {self.limit}")

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        steps_S = self.steps(seen)
        trend_S = torch.tensor([self.trend(steps) for steps in steps_S], dtype=reward_S.dtype)
        count_S = torch.tensor([len(steps) for steps in steps_S], dtype=torch.float64)
        seen.notes.mean("etr/r_ent", trend_S)
        seen.notes.mean("etr/steps", count_S)
        made_S = self.rewards(trend_S, seen.batch.correct)
        if self.no_step_reward is None:
            return made_S
        return torch.where(count_S == 0, self.no_step_reward, made_S)

    def trend(self, steps: Sequence[float]) -> float:
        """R_ent of one response from its step entropies."""
        return entropy_trend(
            steps, gamma=self.gamma, fall_weight=self.fall_weight, rise_weight=self.rise_weight
        )

    def rewards(self, trend_S: Tensor, correct_S: Tensor) -> Tensor:
        """[S] the rewards of responses with these trends."""
        bonus_S = self.coef * trend_S
        if self.limit is not None:
            bonus_S = bonus_S.clamp(-self.limit, self.limit)
        return torch.where(correct_S, 1.0 + bonus_S, -1.0)

    def steps(self, seen: Seen) -> list[list[float]]:
        """The step entropies of each response."""
        batch = seen.batch
        if batch.num_responses == 0:
            return []  # a replica without a response knows nothing of what the engine reports
        closes_T = batch.top_closes_step if self.closed_by_top else batch.closes_step
        if closes_T is None:
            field = "top_closes_step" if self.closed_by_top else "closes_step"
            raise ValueError(f"reasoning steps need batch.{field}; set Part.steps and pack with them")
        entropy_T, length_S = self._entropy(seen), batch.length
        if batch.in_thinking is not None:
            length_S = torch.bincount(batch.owner[batch.in_thinking], minlength=batch.num_responses)
            entropy_T, closes_T = entropy_T[batch.in_thinking], closes_T[batch.in_thinking]
        lengths = length_S.tolist()
        parts = zip(entropy_T.split(lengths), closes_T.split(lengths), strict=True)
        return [step_entropies(*part, keep_tail=self.keep_tail) for part in parts]

    def _entropy(self, seen: Seen) -> Tensor:
        batch = seen.batch
        if self.entropy == "top5":
            if batch.top_log_prob is None:
                raise ValueError(
                    f"entropy=top5 needs batch.top_log_prob; ask the engine for {NUM_TOP} top log-probs"
                )
            return top_entropy(batch.top_log_prob)
        assert batch.entropy is not None, "pieces see scored batches only"
        return batch.entropy

    def words(self) -> str:
        weights = f"falls x {self.fall_weight:g}, rises x {self.rise_weight:g}, momentum {self.gamma:g}"
        bound = "" if self.limit is None else f", bonus within +-{self.limit:g}"
        no_step = "" if self.no_step_reward is None else f", {self.no_step_reward:g} without a step"
        tail = "kept" if self.keep_tail else "dropped"
        closer = "most probable" if self.closed_by_top else "sampled"
        return (
            f"-1 if wrong, 1 + {self.coef:g} x trend of the steps' {self.entropy} entropy if correct "
            f"({weights}; steps closed by the {closer} token, tail {tail}){bound}{no_step}"
        )
