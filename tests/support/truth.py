"""The textbook formulas, as a book states them; run in fp64 they are the truth of the ops' tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    log_prob: Tensor  # [N]
    entropy: Tensor  # [N]
    sum_p2: Tensor  # [N]
    varentropy: Tensor  # [N]


def textbook(logits_NV: Tensor, target_N: Tensor, *, temperature: float = 1.0) -> Statistics:
    """In the type of ``logits_NV``; 0 log 0 is 0."""
    log_p_NV = torch.log_softmax(logits_NV / temperature, dim=1)
    p_NV = log_p_NV.exp()
    safe_NV = log_p_NV.masked_fill(p_NV == 0, 0.0)
    entropy_N = -(p_NV * safe_NV).sum(1)
    varentropy_N = (p_NV * (safe_NV + entropy_N[:, None]).square()).sum(1)
    log_prob_N = log_p_NV.gather(1, target_N[:, None])[:, 0]
    return Statistics(log_prob_N, entropy_N, p_NV.square().sum(1), varentropy_N)


def gradients(
    compute: Callable[..., Sequence[Tensor | None]], *inputs: Tensor, cotangents: Sequence[Tensor]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    """(log_prob, entropy) of ``compute`` and the gradients of ``sum(cotangent * output)``."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    log_prob_N, entropy_N = compute(*leaves)[:2]
    assert log_prob_N is not None
    assert entropy_N is not None
    outputs = (log_prob_N, entropy_N)
    weights = [c.to(x.dtype) for c, x in zip(cotangents, outputs, strict=True)]
    grads = torch.autograd.grad(outputs, leaves, weights)
    return (log_prob_N.detach(), entropy_N.detach()), grads


def textbook_kl(logits_NV: Tensor, reference_NV: Tensor, *, temperature: float = 1.0) -> Tensor:
    """[N] KL(policy || reference) in the type of the logits; 0 log (0 / q) is 0."""
    log_p_NV = torch.log_softmax(logits_NV / temperature, dim=1)
    log_q_NV = torch.log_softmax(reference_NV / temperature, dim=1)
    p_NV = log_p_NV.exp()
    ratio_NV = torch.where(p_NV > 0, log_p_NV - log_q_NV, 0.0)
    return (p_NV * ratio_NV).sum(1)
