"""The CUDA kernels' own source on this processor: values, gradients and numerics against fp64.

What nvcc makes of the source this cannot show: test_cuda_aot.py looks at that.
"""

from __future__ import annotations

import math

import pytest
import torch
from support.compare import assert_as_accurate_as_torch
from support.cuda_on_host import (
    DTYPES,
    NUMBERS,
    everything,
    gradient,
    needs_compiler,
    partial,
    random_case,
    whole,
)
from support.truth import Statistics, gradients, textbook
from torch import Tensor

from megaent.ops import reference

pytestmark = [pytest.mark.full, needs_compiler]

NAMES = Statistics._fields


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_tokens", "vocab", "temperature"),
    [(15, 7, 1.0), (5, 1000, 0.7), (2, 32003, 1.3), (1, 49152, 1.0), (2, 151936, 1.0)],
)
def test_values_and_gradients(
    rng: torch.Generator, dtype: torch.dtype, num_tokens: int, vocab: int, temperature: float
) -> None:
    logits, target, cotangents = random_case(rng, num_tokens, vocab, dtype)
    _, stats, dz = everything(logits, target, cotangents, temperature)

    def plain(z: Tensor) -> Statistics:
        return textbook(z, target, temperature=temperature)

    for name, mine in zip(NAMES, stats[NUMBERS], strict=True):
        exact, same = getattr(plain(logits.double()), name), getattr(plain(logits.float()), name)
        assert_as_accurate_as_torch(mine, exact, same, name=name)
    _, (exact,) = gradients(plain, logits.double(), cotangents=list(cotangents))
    _, (same,) = gradients(plain, logits.float(), cotangents=list(cotangents))
    assert dz.dtype == dtype
    if dtype == torch.float32:
        assert_as_accurate_as_torch(dz, exact, same, name="dz")
    else:  # rounded once
        assert_as_accurate_as_torch(dz, exact, exact.to(dtype), factor=1.01, name="dz")


@pytest.mark.parametrize("dtype", DTYPES)
def test_partials_hold_what_the_reference_says(rng: torch.Generator, dtype: torch.dtype) -> None:
    """Row for row, the number of equal maxima among them; several spans are merged."""
    logits, target, _ = random_case(rng, 3, 70001, dtype)
    logits[1, 5:70000:977] = 20.0
    logits[2] = 1.5
    found = partial(logits, target, 0.8)
    exact = reference.logits_stats(logits.double(), target, vocab_start=0, inv_temperature=1.25, moments=True)
    assert torch.equal(found[[0, 1, 4]].double(), exact[[0, 1, 4]])
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("which", ["log_prob", "entropy"])
def test_a_gradient_may_be_absent(rng: torch.Generator, which: str) -> None:
    logits, target, cotangents = random_case(rng, 4, 501)
    given = [cotangents[0] if which == "log_prob" else None, cotangents[1] if which == "entropy" else None]
    dz = gradient(logits, target, whole([partial(logits, target)]), given)
    weights = [c if c is not None else torch.zeros(4, dtype=torch.float64) for c in given]
    _, (exact,) = gradients(lambda z: textbook(z, target), logits.double(), cotangents=weights)
    torch.testing.assert_close(dz.double(), exact, rtol=2e-6, atol=1e-7)


def test_a_certain_target_keeps_the_precision_of_its_gradient() -> None:
    """1 - p far below one unit of fp32 beside 1."""
    lead = torch.tensor([10.0, 30.0, 60.0])
    logits = torch.zeros(3, 300)
    logits[:, 7] = lead
    target = torch.full((3,), 7)
    dz = gradient(logits, target, whole([partial(logits, target)]), [torch.ones(3), None])
    exact = 299 / (lead.double().exp() + 299)
    torch.testing.assert_close(dz[:, 7].double(), exact, rtol=1e-5, atol=0.0)


# ---------------------------------------------------------------- numerics


@pytest.mark.parametrize(("offset", "usual_error"), [(0.0, 0.01), (30.0, 0.5), (-30.0, 0.5)])
def test_small_entropies_keep_their_relative_precision(
    rng: torch.Generator, offset: float, usual_error: float
) -> None:
    """Peaked rows, H down to 1e-23, where ``lse - sum p z`` is noise; entries are multiples of 1/256."""
    leads = torch.linspace(8, 60, 20)
    tail = (2 * torch.randn(20, 9000, generator=rng) * 256).round() / 256
    logits = tail - leads.round()[:, None] - 8.0 + offset
    logits[:, 4321] = offset
    x = logits.double() - logits.double().amax(1, keepdim=True)
    rest = torch.where(x < 0, x.exp(), 0.0).sum(1)
    exact = rest.log1p() - (x.exp() * x).sum(1) / (1 + rest)
    entropy = whole([partial(logits, torch.full((20,), 4321))])[1].double()
    assert float(((entropy - exact) / exact).abs().max()) < 1e-6
    usual = logits.logsumexp(1) - (logits.softmax(1) * logits).sum(1)
    assert float(((usual.double() - exact) / exact).abs().max()) > usual_error


@pytest.mark.parametrize("count", [2, 3, 100])
def test_several_equal_maxima_share_the_probability(count: int) -> None:
    logits = torch.full((1, 40000), -torch.inf)
    logits[0, torch.arange(count) * 383] = 5.0
    stats = whole([partial(logits, torch.tensor([383]))])
    expected = torch.tensor([-math.log(count), math.log(count), 1 / count, 0.0])
    torch.testing.assert_close(stats[NUMBERS, 0], expected, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_and_rows_far_below_zero(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits, target, cotangents = random_case(rng, 4, 3001, dtype)
    logits[0] -= 300.0
    logits[1, 10:] = -torch.inf
    logits[2, :2990] = -torch.inf
    logits[3, ::2] = -torch.inf
    target[:] = torch.tensor([3, 4, 2995, 1])
    _, stats, dz = everything(logits, target, cotangents)
    exact = textbook(logits.double(), target)
    for name, mine in zip(NAMES, stats[NUMBERS], strict=True):
        torch.testing.assert_close(mine.double(), getattr(exact, name), rtol=2e-6, atol=2e-6)
    assert bool(dz.isfinite().all())
    assert bool((dz[logits == -torch.inf] == 0).all())


def test_one_huge_logit_leaves_no_entropy(rng: torch.Generator) -> None:
    logits, target, cotangents = random_case(rng, 4, 5000)
    logits[:, 4017] = torch.tensor([2e2, 1e4, 1e30, 3e38])
    target[:2] = 4017
    _, stats, dz = everything(logits, target, cotangents, 0.3)
    assert stats[1].tolist() == [0.0] * 4
    assert stats[0, :2].tolist() == [0.0, 0.0]
    assert bool(dz.isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 17, 69999])
def test_what_is_not_a_number_stays_none(dtype: torch.dtype, value: float, place: int) -> None:
    """In its row alone; a span of nothing else must not be taken for an empty one."""
    logits = torch.zeros(3, 70000, dtype=dtype)
    logits[1, place] = value
    logits[2, 65536:] = math.nan
    target = torch.zeros(3, dtype=torch.int64)
    _, stats, dz = everything(logits, target, torch.ones(2, 3))
    for result in (stats[0], stats[1], dz.float().sum(1)):
        assert result.isnan().tolist() == [False, True, True]
