"""The policy term of a token: what is done with ratio and advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megaent.objective.method import TokenMetrics
from megaent.objective.seen import Tokens
from megaent.types import PolicyView

MAX_LOG_RATIO = 20.0  # exp() of more overflows fp32 sums; no policy step comes near it


def _constant(tokens: Tokens, low: float, high: float) -> tuple[Tensor, Tensor]:
    like = tokens.advantage
    return torch.full_like(like, low), torch.full_like(like, high)


def _surrogate(view: PolicyView, ratio_N: Tensor) -> tuple[Tensor, TokenMetrics]:
    """[N] PPO's loss, ``max(-A ratio, -A clip(ratio))``, and which tokens are clipped on which side."""
    advantage_N = view.terms.advantage
    plain_N = -advantage_N * ratio_N
    clipped_N = -advantage_N * ratio_N.clamp(1.0 - view.terms.clip_low, 1.0 + view.terms.clip_high)
    is_clipped_N = clipped_N > plain_N
    metrics = {
        "clip/high": (is_clipped_N & (advantage_N > 0)).float().detach(),
        "clip/low": (is_clipped_N & (advantage_N < 0)).float().detach(),
    }
    return torch.maximum(plain_N, clipped_N), metrics


def _ratio(view: PolicyView) -> Tensor:
    return view.log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


class Bounds(Protocol):
    """Clip bounds that differ by token."""

    def __call__(self, tokens: Tokens) -> tuple[Tensor, Tensor]: ...

    def words(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """``max(-A ratio, -A clip(ratio, 1 - low, 1 + high))``, for A < 0 at most ``-A dual``.

    Schulman et al. 2017, arXiv:1707.06347, eq. 7, with separate bounds (DAPO, arXiv:2503.14476) and
    the dual clip of Ye et al. 2020, arXiv:1912.09729; ``dual=None`` leaves it out. |log ratio| is
    clamped at 20, which the papers do not do. ``by_token`` replaces the two constants.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = 3.0
    by_token: Bounds | None = None

    def bounds(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return _constant(tokens, self.low, self.high) if self.by_token is None else self.by_token(tokens)

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        ratio_N = _ratio(view)
        surrogate_N, metrics = _surrogate(view, ratio_N)
        if self.dual is not None:
            ceiling_N = -view.terms.advantage * self.dual
            is_dual_N = (view.terms.advantage < 0) & (surrogate_N > ceiling_N)
            surrogate_N = torch.where(is_dual_N, ceiling_N, surrogate_N)
            metrics["clip/dual"] = is_dual_N.float().detach()
        return surrogate_N, metrics

    def words(self) -> str:
        bounds = f"[{1 - self.low:g}, {1 + self.high:g}]" if self.by_token is None else self.by_token.words()
        dual = "" if self.dual is None else f", loss of a negative advantage at most {self.dual:g} x |A|"
        return f"-A x ratio, ratio clipped to {bounds}{dual}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclipped:
    """``-A ratio``, nothing clipped: KL-Cov's policy term (arXiv:2505.22617, authors' code)."""

    def bounds(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return _constant(tokens, 1.0, torch.inf)

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        return -view.terms.advantage * _ratio(view), {}

    def words(self) -> str:
        return "-A x ratio, not clipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reinforce:
    """``-A log_prob``: the gradient of REINFORCE whatever the ratio (Williams 1992)."""

    def bounds(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return _constant(tokens, 1.0, torch.inf)

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        return -view.terms.advantage * view.log_prob, {}

    def words(self) -> str:
        return "-A x log_prob, no ratio"


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceClipped:
    """GSPO: one ratio a response, the geometric mean of its tokens' ratios, clipped as one.

    Zheng et al. 2025, "Group Sequence Policy Optimization", arXiv:2507.18071, the token form: the
    value is the response's ratio, the gradient flows through the token's own log-prob. The log ratio
    of a response is clamped at 10 from above, as in verl.
    """

    low: float = 3e-4
    high: float = 4e-4

    def bounds(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return _constant(tokens, self.low, self.high)

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        mean_N = view.response_mean(view.log_ratio)
        ratio_N = (mean_N + view.log_prob - view.log_prob.detach()).clamp(max=10.0).exp()
        return _surrogate(view, ratio_N)

    def words(self) -> str:
        return f"-A x ratio of the whole response, clipped to [{1 - self.low:g}, {1 + self.high:g}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedWeight:
    """CISPO: ``-A stop_gradient(clip(ratio)) log_prob``; every token keeps a gradient.

    MiniMax 2025, "MiniMax-M1", arXiv:2506.13585. ``low=1`` leaves the lower bound out, as in practice.
    """

    low: float = 1.0
    high: float = 2.0

    def bounds(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        return _constant(tokens, self.low, self.high)

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        weight_N = _ratio(view).clamp(1.0 - view.terms.clip_low, 1.0 + view.terms.clip_high).detach()
        is_clipped_N = weight_N != _ratio(view).detach()
        return -view.terms.advantage * weight_N * view.log_prob, {"clip/weight": is_clipped_N.float()}

    def words(self) -> str:
        return f"-A x ratio x log_prob, ratio a constant clipped to [{1 - self.low:g}, {1 + self.high:g}]"


def clipped(clip_low: float, clip_high: float, dual_clip: float) -> Clipped:
    """The clipped term by its options; ``dual_clip=0`` leaves the dual clip out. Raises ValueError."""
    if not 0 <= clip_low < 1:
        raise ValueError(f"clip_low must lie in [0, 1), got {clip_low}")
    if clip_high < 0:
        raise ValueError(f"clip_high must be 0 or more, got {clip_high}")
    if dual_clip and dual_clip <= 1:
        raise ValueError(f"dual_clip must be above 1, or 0 for none, got {dual_clip}")
    return Clipped(low=clip_low, high=clip_high, dual=dual_clip or None)
