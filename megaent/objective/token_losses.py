"""What each token pays: the surrogate and the terms added to it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.compose import TokenMetrics
from megaent.types import PolicyView

MAX_LOG_RATIO = 20.0  # exp() of more overflows fp32 sums; no policy step comes near it


@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedSurrogate:
    """``max(-A ratio, -A clip(ratio, 1 - low, 1 + high))``, for A < 0 at most ``-A dual``.

    Schulman et al. 2017, arXiv:1707.06347, eq. 7, with separate bounds (DAPO, arXiv:2503.14476) and
    the dual clip of Ye et al. 2020, arXiv:1912.09729; ``dual=None`` leaves it out. |log ratio| is
    clamped at 20, which the papers do not do.
    """

    low: float = 0.2
    high: float = 0.2
    dual: float | None = 3.0

    def __call__(self, loss_N: Tensor, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        ratio_N = view.log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        plain_N = -view.advantage * ratio_N
        clipped_N = -view.advantage * ratio_N.clamp(1.0 - self.low, 1.0 + self.high)
        surrogate_N = torch.maximum(plain_N, clipped_N)
        is_clipped_N = clipped_N > plain_N
        metrics = {
            "clip/high": (is_clipped_N & (view.advantage > 0)).float().detach(),
            "clip/low": (is_clipped_N & (view.advantage < 0)).float().detach(),
        }
        if self.dual is not None:
            ceiling_N = -view.advantage * self.dual
            is_dual_N = (view.advantage < 0) & (surrogate_N > ceiling_N)
            surrogate_N = torch.where(is_dual_N, ceiling_N, surrogate_N)
            metrics["clip/dual"] = is_dual_N.float().detach()
        return loss_N + surrogate_N, metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyBonus:
    """``- coef * H`` of the current policy, with its gradient; H in nats over the whole vocabulary."""

    coef: float

    def __call__(self, loss_N: Tensor, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        return loss_N - self.coef * view.entropy, {}


@dataclass(frozen=True, slots=True, kw_only=True)
class KLToReference:
    """``+ coef * (exp(-d) + d - 1)``, d = log_prob - log_prob_ref: Schulman's k3, as GRPO uses it.

    -d is clamped to 20 and the term to 10, as in verl's ``low_var_kl``.
    """

    coef: float

    def __call__(self, loss_N: Tensor, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        if view.log_prob_ref is None:
            raise ValueError("KLToReference needs log_prob_ref; build the method with needs_reference=True")
        minus_d_N = (view.log_prob_ref - view.log_prob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        kl_N = (minus_d_N.exp() - minus_d_N - 1.0).clamp(-10.0, 10.0)
        return loss_N + self.coef * kl_N, {"kl_to_ref/mean": kl_N.detach()}
