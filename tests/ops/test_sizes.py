"""The vocabularies that models have, batches from nothing to a thousand tokens, and offsets beyond 2^31."""

from __future__ import annotations

import pytest
import torch
from support.rows import assert_textbook, far_apart, random_case
from support.truth import textbook
from torch import Tensor

from megaent.ops.backend import get_backend
from megaent.ops.divergence import Divergence

VOCABULARIES = [7, 1000, 32003, 49152, 151936]
COMPARED = 16  # rows of a larger batch that the textbook is asked for


def sizes() -> list:
    """All pairs. The thousand rows of a large vocabulary belong to the full tier, and the largest is left to
    the C++ ops alone: the reference's temporaries would take 4 GB.
    """
    cases = [
        (backend, t, v)
        for backend in ("reference", "cpu")
        for v in VOCABULARIES
        for t in (0, 1, 63, 1000)
        if backend == "cpu" or t * v < 100_000_000
    ]
    return [pytest.param(*case, marks=pytest.mark.full if case[1] * case[2] > 1e7 else []) for case in cases]


@pytest.mark.parametrize(("backend", "num_tokens", "vocab"), sizes(), indirect=["backend"])
def test_values_and_gradients_at_every_size(
    rng: torch.Generator, backend: str, num_tokens: int, vocab: int
) -> None:
    """Of a large batch a few rows are compared, the first and the last among them."""
    logits, target, cotangents = random_case(rng, num_tokens, vocab, torch.float32)
    rows = None
    if num_tokens * vocab > 1_000_000:
        between = 1 + torch.randperm(num_tokens - 2, generator=rng)[: COMPARED - 2]
        rows = torch.cat([torch.tensor([0, num_tokens - 1]), between])
    assert_textbook(logits, target, cotangents, backend=backend, temperature=0.8, rows=rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_lie_beyond_2_to_the_31_entries(
    rng: torch.Generator, backend: str, dtype: torch.dtype
) -> None:
    """The third row begins at entry 2^31: offsets of 32 bits would wrap around."""
    logits, target, _ = random_case(rng, 4, 300, dtype)
    rows, weight = get_backend(backend), torch.randn(3, 4, generator=rng)
    other, shard = logits.flip(1), {"vocab_start": 0, "inv_temperature": 1.0}

    def everything(z: Tensor, ref: Tensor, out: Tensor) -> list[Tensor]:
        partial = rows.logits_stats(z, target, moments=True, **shard)
        kl = rows.kl_partial(z, ref, partial, partial, inv_temperature=1.0)
        stats = rows.stats_combine([partial], inv_temperature=1.0)
        ranks = [rows.top_logits(z), rows.count_above(z, weight[0])]
        rows.logits_stats_backward(
            z,
            target,
            stats,
            grad_log_prob_N=weight[0],
            grad_entropy_N=weight[1],
            divergence=Divergence(ref, kl[:2], weight[2]),
            out=out,
            **shard,
        )
        return [partial, stats, kl, *ranks, out]

    near = everything(logits, other, torch.zeros_like(logits))
    z = far_apart(logits)
    far = everything(z, far_apart(other), far_apart(torch.zeros_like(logits)))
    assert z.storage_offset() + z.stride(0) * 3 > 2**31
    assert all(map(torch.equal, far, near))
    exact = textbook(logits.double(), target)
    torch.testing.assert_close(far[1][1].double(), exact.entropy, rtol=1e-6, atol=1e-6)
    assert all(map(torch.equal, everything(z, far_apart(other), z), near)), "written over the logits"
