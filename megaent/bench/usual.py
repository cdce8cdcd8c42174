"""Torch as it is usually written, the measure of everybody: fp32 between, the whole [N, V] in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from megaent.bench.contender import Compute


def from_logits(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    log_p_NV = torch.log_softmax(logits_NV.float(), dim=1)
    return log_p_NV.gather(1, target_N[:, None])[:, 0], -(log_p_NV.exp() * log_p_NV).sum(1)


def from_hidden(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    return from_logits(hidden_ND @ weight_VD.T, target_N)


def with_kl(logits_NV: Tensor, target_N: Tensor, reference_NV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    log_p_NV = torch.log_softmax(logits_NV.float(), dim=1)
    log_q_NV = torch.log_softmax(reference_NV.float(), dim=1)
    p_NV = log_p_NV.exp()
    log_prob_N = log_p_NV.gather(1, target_N[:, None])[:, 0]
    return log_prob_N, -(p_NV * log_p_NV).sum(1), (p_NV * (log_p_NV - log_q_NV)).sum(1)


def with_extras(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, ...]:
    """The extras are looked at, not trained on."""
    log_p_NV = torch.log_softmax(logits_NV.float(), dim=1)
    p_NV = log_p_NV.exp()
    log_prob_N = log_p_NV.gather(1, target_N[:, None])[:, 0]
    entropy_N = -(p_NV * log_p_NV).sum(1)
    with torch.no_grad():
        varentropy_N = (p_NV * (log_p_NV + entropy_N[:, None]).square()).sum(1)
        top8_mass_N = p_NV.topk(8, dim=1).values.sum(1)
        target_rank_N = (logits_NV > logits_NV.gather(1, target_N[:, None])).sum(1)
        return log_prob_N, entropy_N, p_NV.square().sum(1), varentropy_N, top8_mass_N, target_rank_N


USUAL: dict[str, Compute] = {
    "logits": from_logits,
    "linear": from_hidden,
    "kl": with_kl,
    "extras": with_extras,
}
"""By the name of the path."""
