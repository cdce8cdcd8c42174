"""Causal attention over packed sequences on a CPU, where responses may share the prompt before them.

A response that stands behind a shared prompt attends to the prompt and, causally, to itself. The two parts
are attended apart and joined by their log-sum-exps l_1 and l_2 (FlashAttention, arXiv 2205.14135, section
3.1): out = out_1 exp(l_1 - l) + out_2 exp(l_2 - l), where l = log(exp l_1 + exp l_2). Backward each part is
given the joined ``out`` and ``l``, from which its kernel computes the joined probabilities, so that the
gradients of the parts only have to be added. Padding copies a sequence's last row; its gradient is zero.

N packed tokens, H query heads, K key and value heads (a divisor of H), d head dimension, B x L padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Buckets:
    """Sequences of 2^(i-1) < length <= 2^i side by side, and the way back."""

    rows: tuple[Tensor, ...]  # [B, L] each: the packed row of every padded place
    place: Tensor  # [N] where each packed row stands among the padded places of all buckets
    is_padding: tuple[Tensor, ...]  # [B, L] bool each

    def to(self, device: torch.device) -> Buckets:
        rows, is_padding = ([x.to(device) for x in parts] for parts in (self.rows, self.is_padding))
        return Buckets(tuple(rows), self.place.to(device), tuple(is_padding))


class Tail(NamedTuple):
    """Rows [prompt, start) are a prompt, rows [start, stop) responses that all stand behind it."""

    prompt: int
    start: int
    stop: int


def length_buckets(borders: tuple[int, ...]) -> Buckets:
    by_power: dict[int, list[tuple[int, int]]] = {}
    for start, stop in pairwise(borders):
        by_power.setdefault((stop - start - 1).bit_length(), []).append((start, stop - start))
    rows: list[Tensor] = []
    is_padding: list[Tensor] = []
    place_N = torch.empty(borders[-1], dtype=torch.int64)
    padded_before = 0
    for power in sorted(by_power):
        start_B, length_B = (torch.tensor(column) for column in zip(*by_power[power], strict=True))
        place_L = torch.arange(int(length_B.max()))
        # Padding reads the sequence's own last row: any finite row will do, its result is dropped.
        rows_BL = start_B[:, None] + torch.minimum(place_L[None], length_B[:, None] - 1)
        is_real_BL = place_L[None] < length_B[:, None]
        place_N[rows_BL[is_real_BL]] = padded_before + is_real_BL.flatten().nonzero()[:, 0]
        padded_before += rows_BL.numel()
        rows.append(rows_BL)
        is_padding.append(~is_real_BL)
    return Buckets(tuple(rows), place_N, tuple(is_padding))


def packed_causal(
    q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, buckets: Buckets, tails: tuple[Tail, ...], scale: float
) -> Tensor:
    """[N, H, d]: every row attends to its sequence up to itself, and rows of a tail to its prompt too.

    Differentiable in the three tensors, of any floating type that torch's CPU kernel takes; scores and sums
    are fp32 (fp64 for fp64).
    """
    return _PackedCausal.apply(q_NHD, k_NKD, v_NKD, buckets, tails, scale)  # type: ignore[return-value]


class _PackedCausal(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, buckets: Buckets, tails: tuple[Tail, ...], scale: float
    ) -> Tensor:
        out, lse_NH = _within(q, k, v, buckets, scale)
        for tail in tails:
            _join(out, lse_NH, q, k, v, tail, scale)
        ctx.save_for_backward(q, k, v, out, lse_NH)
        ctx.packing = buckets, tails, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        buckets, tails, scale = ctx.packing
        kept = (grad, *ctx.saved_tensors)
        grads = _within_backward(kept, buckets, scale)
        for tail in tails:
            _add_tail(grads, kept, tail, scale)
        return *grads, None, None, None


def _within(q: Tensor, k: Tensor, v: Tensor, buckets: Buckets, scale: float) -> tuple[Tensor, Tensor]:
    """Of every sequence with itself: [N, H, d], and the log-sum-exp [N, H] of its scores in nats."""
    outs, lses = [], []
    for rows_BL in buckets.rows:
        out, lse = _FORWARD(*(_heads(x[rows_BL]) for x in (q, k, v)), is_causal=True, scale=scale)
        outs.append(_heads(out).flatten(0, 1))
        lses.append(_heads(lse).flatten(0, 1))
    return torch.cat(outs)[buckets.place], torch.cat(lses)[buckets.place]


def _join(out: Tensor, lse_NH: Tensor, q: Tensor, k: Tensor, v: Tensor, tail: Tail, scale: float) -> None:
    """Add the prompt to what its responses have attended to, in place."""
    prompt, own = slice(tail.prompt, tail.start), slice(tail.start, tail.stop)
    parts = (q[own], k[prompt], v[prompt])
    out_prompt, lse_prompt = (_heads(x)[0] for x in _FORWARD(*(_heads(x[None]) for x in parts), scale=scale))
    lse = torch.logaddexp(lse_NH[own], lse_prompt)
    kept, added = ((x - lse).exp()[..., None] for x in (lse_NH[own], lse_prompt))
    out[own] = (out[own] * kept + out_prompt * added).to(out.dtype)
    lse_NH[own] = lse


def _within_backward(kept: tuple[Tensor, ...], buckets: Buckets, scale: float) -> list[Tensor]:
    parts: list[list[Tensor]] = [[], [], []]
    for rows_BL, is_padding_BL in zip(buckets.rows, buckets.is_padding, strict=True):
        grad, *others = (x[rows_BL] for x in kept)
        grad.masked_fill_(is_padding_BL[..., None, None], 0.0)
        for part, found in zip(parts, _backward(grad, *others, is_causal=True, scale=scale), strict=True):
            part.append(found.flatten(0, 1))
    return [torch.cat(part)[buckets.place] for part in parts]


def _add_tail(grads: list[Tensor], kept: tuple[Tensor, ...], tail: Tail, scale: float) -> None:
    prompt, own = slice(tail.prompt, tail.start), slice(tail.start, tail.stop)
    rows = (own, own, prompt, prompt, own, own)
    parts = [x[where][None] for x, where in zip(kept, rows, strict=True)]
    found = _backward(*parts, is_causal=False, scale=scale)
    for grad, part, where in zip(grads, found, (own, prompt, prompt), strict=True):
        grad[where] += part[0]


def _backward(*parts: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, ...]:
    """Gradients [B, L, heads, d] of queries, keys and values, from [B, L, heads, …] each."""
    grad, q, k, v, out, lse = (_heads(x) for x in parts)
    found = _BACKWARD(grad, q, k, v, out, lse, 0.0, is_causal, scale=scale)
    return tuple(_heads(x) for x in found)


def _heads(x: Tensor) -> Tensor:
    """[B, L, heads, …] to [B, heads, L, …], or back; the kernel reads either order in memory."""
    return x.transpose(1, 2)
