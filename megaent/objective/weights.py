"""Weights of a token's policy term: which tokens teach, and how much. No gradient flows through them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.checks import SCOPES, require, require_one_of
from megaent.objective.cores import MAX_LOG_RATIO
from megaent.objective.seen import Seen, Tokens
from megaent.objective.select import quantile


@dataclass(frozen=True, slots=True, kw_only=True)
class HighEntropyOnly:
    """1 where the entropy is at or above the minibatch's (1 - fraction)-quantile, 0 elsewhere.

    Wang et al. 2025, "Beyond the 80/20 Rule", arXiv:2506.01939. The quantile is that of
    ``torch.quantile`` over the trained tokens of all replicas. The mean is still over all tokens.
    """

    fraction: float = 0.2

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "fraction", "lie in (0, 1]", self.fraction)

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        threshold_N = quantile(tokens, tokens.entropy, 1.0 - self.fraction)
        return (tokens.entropy.double() >= threshold_N).to(tokens.advantage.dtype)

    def words(self) -> str:
        return f"1 on the {self.fraction:g} of the minibatch's tokens of highest entropy, 0 elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyChange:
    """Less weight for tokens that are about to change the entropy much.

    Hao et al. 2025 (STEER), arXiv:2510.10150, and the authors' code. To first order a step changes the
    entropy at a token by ``omega = A ratio (1 - p) (log p + H)``, p the token's probability. Form "exp":
    ``w_min ** (|omega| / max(largest |omega|, 0.02))``, at least ``w_min``. Form "linear": the smallest
    |omega| of the minibatch weighs ``linear_high``, the largest ``linear_low``, straight in between;
    where all are equal, ``linear_high``. The authors take the largest over a microbatch (scope "micro").
    """

    w_min: float = 0.8
    form: str = "exp"
    linear_low: float = 0.8
    linear_high: float = 1.2
    scope: str = "mini"

    def __post_init__(self) -> None:
        require(0 < self.w_min <= 1, "w_min", "lie in (0, 1]", self.w_min)
        require_one_of("form", ("exp", "linear"), self.form)
        require_one_of("scope", SCOPES, self.scope)
        require(
            0 <= self.linear_low <= self.linear_high,
            "linear_low", f"lie in [0, linear_high = {self.linear_high}]", self.linear_low,
        )  # fmt: skip

    def omega(self, tokens: Tokens) -> Tensor:
        """[N] absolute value of the change, nats per unit of learning rate."""
        log_ratio_N = (tokens.log_prob - tokens.log_prob_old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        one_minus_p_N = -torch.expm1(tokens.log_prob)
        change_N = tokens.advantage * log_ratio_N.exp() * one_minus_p_N * (tokens.log_prob + tokens.entropy)
        return change_N.abs()

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        omega_N = self.omega(tokens)
        largest_N = _highest(tokens, omega_N, lowest=0.0)
        if self.form == "exp":
            rate_N = -math.log(self.w_min) / largest_N.clamp(min=0.02)
            return (-rate_N * omega_N).exp().clamp(self.w_min, 1.0)
        smallest_N = -_highest(tokens, -omega_N, lowest=-torch.inf)
        span_N = largest_N - smallest_N
        share_N = torch.where(span_N > 0, (omega_N - smallest_N) / span_N, 0.0).clamp(0.0, 1.0)
        return torch.lerp(
            torch.full_like(share_N, self.linear_high), torch.full_like(share_N, self.linear_low), share_N
        )

    def words(self) -> str:
        if self.form == "exp":
            return f"{self.w_min:g} to 1, least where the entropy would change most ({self.scope}batch)"
        return (
            f"{self.linear_low:g} to {self.linear_high:g}, least where the entropy would change most "
            f"({self.scope}batch)"
        )


def _highest(tokens: Tokens, value_N: Tensor, lowest: float) -> Tensor:
    """[N] the largest of each token's minibatch, over all replicas; ``lowest`` for one without tokens."""
    where_N = tokens.counted()
    start_M = torch.full((tokens.num_minibatches,), lowest, dtype=value_N.dtype, device=value_N.device)
    found_M = start_M.scatter_reduce(0, tokens.minibatch[where_N], value_N[where_N], "amax")
    return tokens.spread(tokens.population.max(found_M))


@dataclass(frozen=True, slots=True, kw_only=True)
class PositiveWeight:
    """``weight`` where the advantage is positive, 1 elsewhere.

    Zhu et al. 2025, "The Surprising Effectiveness of Negative Reinforcement", arXiv:2506.01347: W-REINFORCE
    weighs positive samples by 0.1, NSR by 0.
    """

    weight: float = 0.1

    def __post_init__(self) -> None:
        require(self.weight >= 0, "weight", "be 0 or more", self.weight)

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        return torch.where(tokens.advantage > 0, self.weight, torch.ones_like(tokens.advantage))

    def words(self) -> str:
        return f"{self.weight:g} where the advantage is positive, 1 elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMismatch:
    """``min(p_old / p_engine, limit)``: corrects for an engine whose probabilities differ from the trainer's.

    Truncated importance sampling, as in verl: of the token, or of the whole response (the product of its
    trained tokens' ratios). "mask" gives weight 0 above the limit where "truncate" gives the limit.
    |log ratio| is clamped at 20.
    """

    level: str = "token"
    mode: str = "truncate"
    limit: float = 2.0

    def __post_init__(self) -> None:
        require_one_of("level", ("token", "sequence"), self.level)
        require_one_of("mode", ("truncate", "mask"), self.mode)
        require(self.limit > 0, "limit", "be above 0", self.limit)

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        log_ratio_N = tokens.log_prob_old - tokens.log_prob_engine
        if self.level == "sequence":
            log_ratio_N = _response_sum(tokens, log_ratio_N)
        ratio_N = log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        is_over_N = ratio_N > self.limit
        if seen is not None:
            seen.notes.mean("mismatch/over_limit", is_over_N, tokens.counted())
        return torch.where(is_over_N, 0.0 if self.mode == "mask" else self.limit, ratio_N)

    def words(self) -> str:
        above = "0 above" if self.mode == "mask" else "at most"
        whose = "the token" if self.level == "token" else "the response"
        return f"p_old / p_engine of {whose}, {above} {self.limit:g}"


def _response_sum(tokens: Tokens, value_N: Tensor) -> Tensor:
    """[N] sums over the trained tokens of each token's response, which one replica holds whole."""
    sums_S = torch.zeros(tokens.num_responses, dtype=torch.float64, device=value_N.device)
    sums_S.index_add_(0, tokens.owner, torch.where(tokens.mask, value_N, 0.0).double())
    return sums_S[tokens.owner].to(value_N.dtype)
