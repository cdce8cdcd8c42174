"""Attention over packed rows against one dense softmax over the whole pack, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megaent.actor.packed_causal import Tail, length_buckets, packed_causal

# Two groups behind shared prompts, a sequence of its own, and one token of padding.
BORDERS = (0, 5, 9, 10, 17, 20, 21, 24, 37, 38)
TAILS = (Tail(0, 5, 17), Tail(20, 21, 37))
SCALE = 0.3


def may_read(borders: tuple[int, ...], tails: tuple[Tail, ...]) -> Tensor:
    """[N, N] bool, from the definition."""
    count = borders[-1]
    sequence = torch.bucketize(torch.arange(count), torch.tensor(borders[1:]), right=True)
    mask = (sequence[:, None] == sequence) & torch.ones(count, count, dtype=torch.bool).tril()
    for tail in tails:
        mask[tail.start : tail.stop, tail.prompt : tail.start] = True
    return mask


def dense(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    score_HNN = SCALE * torch.einsum("qhd,khd->hqk", q, k)
    return torch.einsum("hqk,khd->qhd", score_HNN.masked_fill(~mask, -torch.inf).softmax(-1), v)


def tensors(heads: int, groups: int, dtype: torch.dtype, *, spread: float = 1.0) -> list[Tensor]:
    noise = torch.Generator().manual_seed(heads)
    shapes = [(heads, 8), (groups, 8), (groups, 8)]
    return [
        (spread * torch.randn(BORDERS[-1], *shape, generator=noise, dtype=torch.float64)).to(dtype)
        for shape in shapes
    ]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("tails", [TAILS, ()])
@pytest.mark.parametrize("spread", [1.0, 20.0])
def test_values_and_gradients_equal_a_dense_softmax(
    heads: int, groups: int, tails: tuple[Tail, ...], spread: float
) -> None:
    inputs = [x.requires_grad_() for x in tensors(heads, groups, torch.float64, spread=spread)]
    found = packed_causal(*inputs, length_buckets(BORDERS), tails, SCALE)
    expected = dense(*inputs, may_read(BORDERS, tails))
    assert float((found - expected).abs().max()) <= 1e-12 * spread
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, weight), torch.autograd.grad(expected, inputs, weight), strict=True
    ):
        assert float((ours - theirs).abs().max()) <= 1e-11 * spread


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_lower_precisions_follow(dtype: torch.dtype, bound: float) -> None:
    inputs = tensors(6, 2, dtype)
    found = packed_causal(*inputs, length_buckets(BORDERS), TAILS, SCALE)
    assert found.dtype == dtype
    expected = dense(*(x.double() for x in inputs), may_read(BORDERS, TAILS))
    assert float((found.double() - expected).abs().max()) <= bound


@pytest.mark.parametrize(("row", "readers"), [(2, range(2, 17)), (6, range(6, 9)), (20, range(20, 37))])
def test_a_row_is_read_by_those_behind_it_alone(row: int, readers: range) -> None:
    q, k, v = tensors(4, 2, torch.float64)
    before = packed_causal(q, k, v, length_buckets(BORDERS), TAILS, SCALE)
    v[row] += 1.0
    after = packed_causal(q, k, v, length_buckets(BORDERS), TAILS, SCALE)
    assert (before != after).flatten(1).any(dim=1).nonzero()[:, 0].tolist() == list(readers)


def test_buckets_put_every_row_back_in_its_place() -> None:
    borders = (0, 3, 4, 20, 25, 32)
    buckets = length_buckets(borders)
    rows = torch.cat([rows.flatten() for rows in buckets.rows])
    assert torch.equal(rows[buckets.place], torch.arange(32))
    assert rows.numel() < 2 * 32, "padding stays below the real rows"
    padding = torch.cat([padding.flatten() for padding in buckets.is_padding])
    assert int((~padding).sum()) == 32
