"""What the linear path allocates: one tile's logits at a time, and the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megaent.bench.measure import peak_extra_bytes
from megaent.ops import linear_logprob_entropy
from megaent.ops.linear_logprob_entropy import columns_per_tile

VOCAB, WIDTH, ROWS, TILE = 1000, 16, 640, 128
WORKSPACE = ROWS * TILE * 4  # bytes of fp32 logits


def case(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, WIDTH, generator=rng).to(dtype) for n in (ROWS, VOCAB))
    return hidden, weight, torch.randint(VOCAB, (ROWS,), generator=rng)


def test_a_forward_pass_holds_one_tile_of_logits() -> None:
    given = case()
    few = 400 * ROWS  # bytes of statistics, among them fp64 copies of two tiles'

    def run() -> object:
        with torch.no_grad():
            return linear_logprob_entropy(*given, workspace_bytes=WORKSPACE)

    assert WORKSPACE <= peak_extra_bytes(run, "cpu") <= WORKSPACE + few


def test_a_backward_pass_adds_the_gradients_and_no_more() -> None:
    hidden, weight, target = case()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    few = 400 * ROWS

    def run() -> object:
        result = linear_logprob_entropy(*leaves, target, workspace_bytes=WORKSPACE)
        return torch.autograd.grad(result.log_prob.sum() + result.entropy.sum(), leaves)

    gradients = hidden.nbytes + weight.nbytes
    assert peak_extra_bytes(run, "cpu") <= WORKSPACE + gradients + few


@pytest.mark.parametrize(("dtype", "columns"), [(torch.float32, 2**14), (torch.bfloat16, 2**15)])
def test_without_a_bound_a_tile_takes_64_mib_on_a_cpu(dtype: torch.dtype, columns: int) -> None:
    assert columns_per_tile(torch.zeros(1024, 2, dtype=dtype), None) == columns


@pytest.mark.parametrize("workspace_bytes", [WORKSPACE, 2**30])
def test_what_was_in_the_gradients_memory_does_not_matter(workspace_bytes: int) -> None:
    """Memory that was never written holds NaN here; the first tile must write over it, padding included."""
    hidden, weight, target = case()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    result = linear_logprob_entropy(*leaves, target % 900, vocab_size=900, workspace_bytes=workspace_bytes)
    dh, dw = torch.autograd.grad(result.log_prob.sum() + result.entropy.sum(), leaves)
    assert bool(dh.isfinite().all())
    assert bool(dw.isfinite().all())
    assert bool((dw[900:] == 0).all())
    assert bool((dw[:900] != 0).any(1).all())
