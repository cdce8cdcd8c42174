"""The hard cases, each a promise, on the reference and on the C++ ops at every instruction level.

Triton's kernels have the same cases in triton_cases.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from support.rows import assert_textbook, random_case
from support.truth import gradients, textbook
from torch import Tensor

from megaent.ops import logprob_entropy

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_tokens", "vocab"), [(0, 7), (5, 1), (63, 7), (63, 16), (40, 1000), (9, 2049), (3, 32003)]
)
def test_values_and_gradients_at_odd_sizes(
    rng: torch.Generator, implementation: str, num_tokens: int, vocab: int, dtype: torch.dtype
) -> None:
    assert_textbook(*random_case(rng, num_tokens, vocab, dtype), backend=implementation)


@pytest.mark.parametrize("temperature", [0.3, 0.6, 2.0])
def test_values_and_gradients_under_temperature(
    rng: torch.Generator, implementation: str, temperature: float
) -> None:
    assert_textbook(*random_case(rng, 20, 3000), temperature=temperature, backend=implementation)


@pytest.mark.parametrize("offset", [30.0, -30.0, -200.0, 1e4, -1e4, -1e30])
def test_an_offset_of_all_logits_changes_nothing(
    rng: torch.Generator, implementation: str, offset: float
) -> None:
    """From -200 on exp of every logit is 0 in fp32."""
    logits, target, cotangents = random_case(rng, 20, 3000)
    assert_textbook(logits + offset, target, cotangents, backend=implementation)
    if abs(offset) > 1e4:
        return
    coarse = (logits * 64).round() / 64  # survives the offset without rounding
    moved, plain = (logprob_entropy(z, target, backend=implementation) for z in (coarse + offset, coarse))
    assert torch.equal(moved.log_prob, plain.log_prob)
    assert torch.equal(moved.entropy, plain.entropy)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_has_no_probability(
    rng: torch.Generator, implementation: str, dtype: torch.dtype
) -> None:
    """Whole blocks of it, too: with 64 columns of 9000 left, as top-p leaves them."""
    logits, target, cotangents = random_case(rng, 12, 9000, dtype)
    kept = torch.rand(logits.shape, generator=rng).argsort(1) < 64
    logits[~kept] = -torch.inf
    logits[:6, :5000] = -torch.inf
    target = logits.argmax(1)
    values, (dz,) = gradients(
        lambda z: logprob_entropy(z, target, backend=implementation), logits, cotangents=cotangents
    )
    assert bool((dz[logits == -torch.inf] == 0).all())
    for mine, true in zip(values, textbook(logits.double(), target), strict=False):
        torch.testing.assert_close(mine.double(), true, rtol=1e-6, atol=1e-6)
    finite = logits.double().clamp(min=-1e4)  # autograd of 0 log 0 is NaN; -1e4 has no probability either
    _, (dz_exact,) = gradients(lambda z: textbook(z, target), finite, cotangents=cotangents)
    torch.testing.assert_close(dz.double(), dz_exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_a_target_without_probability_has_log_prob_minus_infinity(implementation: str) -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    result = logprob_entropy(logits, torch.tensor([2]), backend=implementation)
    assert result.log_prob.tolist() == [-math.inf]
    assert result.entropy.item() == pytest.approx(math.log(2), rel=1e-6)


def test_one_huge_logit_leaves_no_entropy(rng: torch.Generator, implementation: str) -> None:
    logits, target, cotangents = random_case(rng, 4, 5000)
    logits[:, 4017] = torch.tensor([2e2, 1e4, 1e30, 3e38])
    target[:2] = 4017
    values, (dz,) = gradients(
        lambda z: logprob_entropy(z, target, temperature=0.3, backend=implementation),
        logits,
        cotangents=cotangents,
    )
    assert values[1].tolist() == [0.0] * 4
    assert values[0][:2].tolist() == [0.0, 0.0]
    assert bool((values[0][2:] < -9e29).all())
    assert bool(dz.isfinite().all())


@pytest.mark.parametrize("count", [2, 3, 100])
def test_several_equal_maxima_share_the_probability(implementation: str, count: int) -> None:
    logits = torch.full((1, 9000), -torch.inf)
    logits[0, torch.arange(count) * 83] = 5.0
    result = logprob_entropy(
        logits, torch.tensor([83]), extras=("sum_p2", "varentropy"), backend=implementation
    )
    assert result.entropy.item() == pytest.approx(math.log(count), rel=2e-7)
    assert result.log_prob.item() == pytest.approx(-math.log(count), rel=2e-7)
    assert result.sum_p2 is not None
    assert result.varentropy is not None
    assert result.sum_p2.item() == pytest.approx(1 / count, rel=2e-7)
    assert result.varentropy.item() == 0.0


@pytest.mark.parametrize("vocab", [2, 7, 1000, 32003])
def test_entropy_of_a_uniform_distribution_is_log_v(implementation: str, vocab: int) -> None:
    target = torch.tensor([0, 1, vocab - 1])
    result = logprob_entropy(torch.full((3, vocab), -3.0), target, backend=implementation)
    assert result.entropy.tolist() == pytest.approx([math.log(vocab)] * 3, rel=1e-6)
    assert result.log_prob.tolist() == pytest.approx([-math.log(vocab)] * 3, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_of_the_distribution(rng: torch.Generator, implementation: str, dtype: torch.dtype) -> None:
    logits, target, _ = random_case(rng, 20, 5000, dtype)
    exact = textbook(logits.double(), target, temperature=1.7)
    options = {"temperature": 1.7, "backend": implementation}
    result = logprob_entropy(logits, target, extras=("sum_p2", "varentropy"), **options)
    for name in ("sum_p2", "varentropy"):
        found = getattr(result, name).double()
        torch.testing.assert_close(found, getattr(exact, name), rtol=2e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(("offset", "usual_error"), [(0.0, 0.01), (25.0, 0.5)])
def test_small_entropies_keep_their_relative_precision(
    rng: torch.Generator, implementation: str, offset: float, usual_error: float
) -> None:
    """Peaked rows, H down to 1e-23; plain PyTorch loses them, ``lse - sum p z`` more than ``sum p log p``."""
    leads = torch.linspace(8, 60, 40)
    tail = (2 * torch.randn(40, 9000, generator=rng) * 256).round() / 256
    logits = tail - leads.round()[:, None] - 8.0 + offset
    logits[:, 4321] = offset
    exact = exact_entropy(logits)
    entropy = logprob_entropy(logits, torch.full((40,), 4321), backend=implementation).entropy.double()
    assert float(((entropy - exact) / exact).abs().max()) < 1e-6
    p, log_p = logits.softmax(1), logits.log_softmax(1)
    of_lse, of_log_p = logits.logsumexp(1) - (p * logits).sum(1), -(p * log_p).sum(1)
    assert float(((of_lse.double() - exact) / exact).abs().max()) > usual_error
    assert float(((of_log_p.double() - exact) / exact).abs().max()) > 0.01


def exact_entropy(logits: Tensor) -> Tensor:
    """In fp64 from the same numbers, the largest one apart, so that nothing cancels."""
    x = logits.double() - logits.double().amax(1, keepdim=True)
    weight = x.exp()
    rest = torch.where(x < 0, weight, 0.0).sum(1)
    return rest.log1p() - (weight * x).sum(1) / (1 + rest)


# ---------------------------------------------------------------- memory and repetition


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_layout_does_not_matter(rng: torch.Generator, implementation: str, dtype: torch.dtype) -> None:
    """Columns apart, rows apart, rows that begin anywhere: the same bits."""
    logits, target, cotangents = random_case(rng, 20, 3001, dtype)

    def values_and_gradient(z: Tensor) -> list[Tensor]:
        leaf = z.detach().requires_grad_()
        result = logprob_entropy(leaf, target, backend=implementation)
        weights = [c.to(result.entropy.dtype) for c in cotangents]
        (dz,) = torch.autograd.grad(result[:2], leaf, weights)
        return [result.log_prob, result.entropy, dz]

    wide = torch.full((20, 3016), torch.nan, dtype=dtype)
    wide[:, 3:3004] = logits
    expected = values_and_gradient(logits)
    for view in (logits.T.contiguous().T, wide[:, 3:3004], torch.stack([logits, logits], 2)[:, :, 0]):
        assert not view.is_contiguous()
        assert all(map(torch.equal, values_and_gradient(view), expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_calls_give_equal_bits_however_the_tokens_are_split(
    rng: torch.Generator, implementation: str, dtype: torch.dtype
) -> None:
    logits, target, cotangents = random_case(rng, 63, 1000, dtype)

    def ours(z: Tensor, rows: slice) -> Sequence[Tensor]:
        return logprob_entropy(z[rows], target[rows], temperature=0.7, backend=implementation)[:2]

    def split(z: Tensor) -> tuple[Tensor, ...]:
        parts = [ours(z, slice(i, i + 10)) for i in range(0, 63, 10)]
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    whole, (dz,) = gradients(lambda z: ours(z, slice(None)), logits, cotangents=cotangents)
    for compute in (lambda z: ours(z, slice(None)), split):
        again, (dz_again,) = gradients(compute, logits, cotangents=cotangents)
        assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))
        assert torch.equal(dz_again, dz)
