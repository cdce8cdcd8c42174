"""The covariance of advantage and log-prob, and what is done to the tokens where it is high.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
arXiv:2505.22617: the change of the policy's entropy in a step is minus the covariance, over tokens, of the
advantage and the log-prob, and a few tokens carry most of it. Both rules here hold those tokens back.

``scope`` "mini" ranks the old policy's tokens over the minibatch of all replicas. "micro" is the published
rule, on the current policy over one microbatch, so that the result depends on its size; the two agree
on the first optimizer step of a minibatch that is one microbatch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.checks import SCOPES, require, require_one_of
from megaent.objective.seen import Seen, Tokens
from megaent.objective.select import largest, smallest
from megaent.randomness import draw_seed, uniform


def covariance(tokens: Tokens) -> Tensor:
    """[N] ``(A - mean A) * (log_prob - mean log_prob)``, means over the token's minibatch."""
    mean_advantage_N, mean_log_prob_N = tokens.means((tokens.advantage, tokens.log_prob))
    return (tokens.advantage - mean_advantage_N) * (tokens.log_prob - mean_log_prob_N)


def count_of(tokens: Tokens, fraction: float) -> Tensor:
    """[M] how many tokens ``fraction`` of each minibatch is: rounded down, one at least."""
    counted_M = tokens.total(torch.ones_like(tokens.advantage))
    return (counted_M * fraction).floor().clamp(min=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class HighestCovariance:
    """``coef`` on the ``fraction`` of tokens whose covariance is highest, 0 elsewhere: KL-Cov's choice."""

    coef: float = 1.0
    fraction: float = 2e-3
    scope: str = "mini"

    def __post_init__(self) -> None:
        require(self.coef >= 0, "coef", "be 0 or more", self.coef)
        require(0 < self.fraction <= 1, "fraction", "lie in (0, 1] (0.2 % is 2e-3)", self.fraction)
        require_one_of("scope", SCOPES, self.scope)

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        is_chosen_N = largest(tokens, covariance(tokens), count_of(tokens, self.fraction))
        return self.coef * is_chosen_N.to(tokens.advantage.dtype)

    def words(self) -> str:
        return f"{self.coef:g} on the {self.fraction:g} of tokens of highest covariance ({self.scope}batch)"


@dataclass(frozen=True, slots=True, kw_only=True)
class DropFromBand:
    """Weight 0 for a few random tokens whose covariance lies in a band, 1 elsewhere: Clip-Cov's choice.

    Candidates are the trained tokens with ``low < covariance < high`` that the ratio's clip does not hold
    already; ``fraction`` of all trained tokens, one at least, are drawn from them. The draw depends on the
    place of a token in the batch and on the progress of the run (in scope "micro" on the place alone),
    not on who holds the token.
    """

    low: float = 1.0
    high: float = 5.0
    fraction: float = 2e-4
    clip_low: float = 1.0  # the policy term's clip, to leave out the tokens that it holds
    clip_high: float = 1.0
    scope: str = "mini"

    def __post_init__(self) -> None:
        require(self.low < self.high, "cov_low", f"be below cov_high = {self.high}", self.low)
        require(0 < self.fraction <= 1, "fraction", "lie in (0, 1] (0.02 % is 2e-4)", self.fraction)
        require_one_of("scope", SCOPES, self.scope)

    def candidates(self, tokens: Tokens) -> Tensor:
        """[N] bool."""
        covariance_N = covariance(tokens)
        log_ratio_N = tokens.log_prob - tokens.log_prob_old
        is_clipped_N = ((tokens.advantage > 0) & (log_ratio_N.exp() > 1.0 + self.clip_high)) | (
            (tokens.advantage < 0) & (log_ratio_N.exp() < 1.0 - self.clip_low)
        )
        is_in_band_N = (covariance_N > self.low) & (covariance_N < self.high)
        return tokens.counted() & is_in_band_N & ~is_clipped_N

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        seed = draw_seed("clip_cov", "" if seen is None else repr(seen.progress))
        draw_N = uniform(torch.full_like(tokens.order, seed), tokens.order)
        candidate_N = self.candidates(tokens)
        is_drawn_N = smallest(tokens, draw_N, count_of(tokens, self.fraction), candidate_N)
        return (~is_drawn_N).to(tokens.advantage.dtype)

    def words(self) -> str:
        return (
            f"0 on {self.fraction:g} of the tokens, drawn where covariance lies between {self.low:g} and "
            f"{self.high:g} ({self.scope}batch)"
        )
