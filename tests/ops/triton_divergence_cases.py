"""KL in the Triton kernels, interpreted; test_triton_interpreter.py runs this file in its own process."""

from __future__ import annotations

import itertools

import pytest
import torch
from megaent_kernels import divergence as divergence_kernels
from megaent_kernels.tune import ForwardLaunch
from support.compare import assert_as_accurate_as_torch
from support.rows import far_apart
from support.truth import textbook_kl
from torch import Tensor

from megaent.ops import reference as torch_rows
from megaent.ops import triton
from megaent.ops.divergence import Divergence, kl_combine

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
INV = {"inv_temperature": 1.25}


def random_case(
    rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype = torch.float32, spread: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    logits = 3 * torch.randn(num_tokens, vocab, generator=rng)
    other = logits + spread * torch.randn(num_tokens, vocab, generator=rng)
    return logits.to(dtype), other.to(dtype), torch.randn(num_tokens, generator=rng)


def partials(logits: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """(statistics of the policy, KL's rows) of one shard."""
    target = torch.zeros(logits.shape[0], dtype=torch.int64)
    pair = [triton.logits_stats(z, target, vocab_start=0, **INV) for z in (logits, other)]
    return pair[0], triton.kl_partial(logits, other, *pair, **INV)


def gradient(
    logits: Tensor,
    other: Tensor,
    stats: Tensor,
    kl_stats: Tensor,
    weight: Tensor,
    out: Tensor | None = None,
) -> Tensor:
    return triton.logits_stats_backward(
        logits,
        torch.zeros(logits.shape[0], dtype=torch.int64),
        stats,
        grad_log_prob_N=None,
        grad_entropy_N=None,
        vocab_start=0,
        divergence=Divergence(other, kl_stats, weight),
        out=out,
        **INV,
    )


def truth(logits: Tensor, other: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    leaf = logits.to(dtype).requires_grad_()
    kl = textbook_kl(leaf, other.to(dtype), temperature=0.8)
    return kl.detach(), torch.autograd.grad(kl, leaf, weight.to(dtype))[0]


@pytest.mark.parametrize(
    ("num_tokens", "vocab", "dtype", "spread"),
    [
        (0, 7, torch.float32, 1.0),
        (33, 7, torch.float32, 1.0),
        (2, 3200, torch.float32, 1e-3),
        *[(2, 1001, dtype, 1.0) for dtype in DTYPES],
    ],
)
def test_values_and_gradients_are_those_of_fp64(
    rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype, spread: float
) -> None:
    logits, other, weight = random_case(rng, num_tokens, vocab, dtype, spread)
    partial, kl_rows = partials(logits, other)
    stats = triton.stats_combine([partial], **INV)
    kl_stats = kl_combine([partial], [kl_rows], **INV)
    dz = gradient(logits, other, stats, kl_stats, weight)
    exact, dz_exact = truth(logits, other, weight, torch.float64)
    torch.testing.assert_close(kl_stats[0].double(), exact, rtol=2e-6, atol=0)
    if dtype == torch.float32:
        assert_as_accurate_as_torch(dz, dz_exact, truth(logits, other, weight, torch.float32)[1], name="dz")
    else:
        torch.testing.assert_close(dz.double(), dz_exact, rtol=torch.finfo(dtype).eps, atol=2e-6)


def test_excluded_tokens_and_nan(rng: torch.Generator) -> None:
    """Excluded by both, by the policy, by the reference; NaN in one row of the reference."""
    logits, other, weight = random_case(rng, 4, 1000)
    logits[0, :600] = other[0, :600] = -torch.inf
    logits[1, 300:] = -torch.inf
    other[2, :300] = -torch.inf
    other[3, 999] = torch.nan
    partial, kl_rows = partials(logits, other)
    kl_stats = kl_combine([partial], [kl_rows], **INV)
    exact = textbook_kl(logits[:2].double(), other[:2].double(), temperature=0.8)
    torch.testing.assert_close(kl_stats[0, :2].double(), exact, rtol=1e-6, atol=0)
    assert kl_stats[0, 2] == torch.inf
    assert bool(kl_stats[0, 3].isnan())
    dz = gradient(logits, other, triton.stats_combine([partial], **INV), kl_stats, weight)
    assert bool(dz[:2].isfinite().all())
    assert bool((dz[:2][logits[:2] == -torch.inf] == 0).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_give_the_same_bits_wherever_they_lie(rng: torch.Generator, dtype: torch.dtype) -> None:
    """Unaligned rows, columns apart, and a batch taken row by row."""
    logits, other, weight = random_case(rng, 3, 1001, dtype)
    partial, kl_rows = partials(logits, other)
    stats, kl_stats = triton.stats_combine([partial], **INV), kl_combine([partial], [kl_rows], **INV)
    dz = gradient(logits, other, stats, kl_stats, weight)

    def elsewhere(z: Tensor, first: int) -> Tensor:
        wide = torch.full((3, 1016), torch.nan, dtype=dtype)
        wide[:, first : first + 1001] = z
        return wide[:, first : first + 1001]

    for a, b in ((elsewhere(logits, 0), elsewhere(other, 0)), (elsewhere(logits, 1), other.T.contiguous().T)):
        assert torch.equal(partials(a, b)[1], kl_rows)
        assert torch.equal(gradient(a, b, stats, kl_stats, weight), dz)
    singles = [partials(logits[i : i + 1], other[i : i + 1])[1] for i in range(3)]
    assert torch.equal(torch.cat(singles, dim=1), kl_rows)


def test_rows_may_lie_beyond_2_to_the_31_entries(rng: torch.Generator) -> None:
    """The third row begins at entry 2^31: offsets of 32 bits would wrap around."""
    logits, other, weight = random_case(rng, 3, 300, torch.bfloat16)
    partial, kl_rows = partials(logits, other)
    stats, kl_stats = triton.stats_combine([partial], **INV), kl_combine([partial], [kl_rows], **INV)
    dz = gradient(logits, other, stats, kl_stats, weight)
    z, ref, out = far_apart(logits), far_apart(other), far_apart(torch.zeros_like(logits))
    assert all(map(torch.equal, partials(z, ref), (partial, kl_rows)))
    assert torch.equal(gradient(z, ref, stats, kl_stats, weight, out), dz)
    assert torch.equal(out, dz)


def test_spans_and_shards_are_merged_exactly(rng: torch.Generator) -> None:
    logits, other, _ = random_case(rng, 3, 1500)
    norms = torch.stack(
        [x for z in (logits, other) for x in (z.amax(1), ((z - z.amax(1, True)) * 1.25).logsumexp(1))]
    )
    rho = ((other * 1.25).logsumexp(1) - (logits * 1.25).logsumexp(1))[None]
    one, many = (
        divergence_kernels.divergence_sums(
            logits, other, torch.cat([norms, rho]), launch=ForwardLaunch(32, span, num_warps=1), **INV
        )
        for span in (2048, 512)
    )
    torch.testing.assert_close(one, many, rtol=1e-6, atol=1e-6)
    edges = [0, 500, 500, 1500]
    parts = [partials(logits[:, a:b], other[:, a:b]) for a, b in itertools.pairwise(edges)]
    kl_stats = kl_combine([p for p, _ in parts], [k for _, k in parts], **INV)
    exact = textbook_kl(logits.double(), other.double(), temperature=0.8)
    torch.testing.assert_close(kl_stats[0].double(), exact, rtol=2e-6, atol=0)


def test_ranks_and_largest_logits_are_the_reference_s(rng: torch.Generator) -> None:
    logits, _, bound = random_case(rng, 3, 1000, torch.bfloat16)
    assert torch.equal(triton.top_logits(logits), torch_rows.top_logits(logits))
    assert torch.equal(triton.count_above(logits, bound), (logits.float() > bound[:, None]).sum(1))


def test_the_registered_ops_keep_their_word(rng: torch.Generator) -> None:
    logits, other, weight = random_case(rng, 3, 40)
    partial, kl_rows = partials(logits, other)
    ops, checks = torch.ops.megaent_triton, ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(ops.kl_partial.default, (logits, other, partial, partial, 1.25), test_utils=checks)
    stats, kl_stats = triton.stats_combine([partial], **INV), kl_combine([partial], [kl_rows], **INV)
    target = torch.zeros(3, dtype=torch.int64)
    arguments = (
        logits,
        target,
        stats,
        None,
        None,
        other,
        kl_stats,
        weight,
        0,
        1.25,
        torch.zeros_like(logits),
    )
    torch.library.opcheck(ops.logits_stats_backward.default, arguments, test_utils=checks)


def test_a_reference_that_does_not_fit_is_refused(rng: torch.Generator) -> None:
    logits, other, _ = random_case(rng, 3, 40)
    with pytest.raises(ValueError, match=r"reference must be like logits, \[3, 40\].*got \[3, 41\]"):
        triton.kl_partial(logits, torch.zeros(3, 41), *partials(logits, other), **INV)
