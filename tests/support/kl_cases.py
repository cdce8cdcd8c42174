"""Random pairs of policies, and the three differentiable results with their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from support.truth import textbook, textbook_kl
from torch import Tensor

from megaent.ops import TokenStatistics


def random_case(rng: torch.Generator, num_tokens: int, vocab: int, spread: float = 0.5):
    """Policy and reference logits fp32, targets, and what log_prob, entropy and kl are weighed with."""
    logits = 3 * torch.randn(num_tokens, vocab, generator=rng)
    reference = logits + spread * torch.randn(num_tokens, vocab, generator=rng)
    target = torch.randint(vocab, (num_tokens,), generator=rng)
    return logits, reference, target, torch.randn(3, num_tokens, generator=rng, dtype=torch.float64)


def all_three(result: TokenStatistics) -> tuple[Tensor, Tensor, Tensor]:
    assert result.kl is not None
    return result.log_prob, result.entropy, result.kl


def plain(logits: Tensor, reference: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, ...]:
    found = textbook(logits, target, temperature=temperature)
    return found.log_prob, found.entropy, textbook_kl(logits, reference, temperature=temperature)


def differentiated(
    compute: Callable[..., Sequence[Tensor]], *inputs: Tensor, weights: Tensor
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    values = compute(*leaves)
    grads = torch.autograd.grad(values, leaves, [w.to(v.dtype) for w, v in zip(weights, values, strict=True)])
    return [value.detach() for value in values], grads
