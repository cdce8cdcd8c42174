"""KL to a reference policy: against fp64, near 0, with excluded tokens and NaN."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.compare import assert_as_accurate_as_torch
from support.kl_cases import all_three, differentiated, plain, random_case
from support.truth import textbook_kl
from torch import Tensor

from megaent.ops import logprob_entropy

# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize(
    ("num_tokens", "vocab", "temperature"),
    [(0, 7, 1.0), (5, 1, 1.0), (63, 7, 0.7), (40, 1000, 2.0), (9, 2049, 1.0), (3, 32003, 0.7)],
)
@pytest.mark.parametrize("spread", [0.02, 3.0])
def test_values_and_gradients_are_those_of_fp64(
    rng: torch.Generator, backend: str, num_tokens: int, vocab: int, temperature: float, spread: float
) -> None:
    logits, reference, target, weights = random_case(rng, num_tokens, vocab, spread)

    def ours(z: Tensor) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"temperature": temperature, "backend": backend}
        return all_three(logprob_entropy(z, target, reference_logits=reference, **options))

    mine, (dz,) = differentiated(ours, logits, weights=weights)
    exact, (dz_exact,) = differentiated(
        lambda z: plain(z, reference.double(), target, temperature), logits.double(), weights=weights
    )
    same, (dz_same,) = differentiated(
        lambda z: plain(z, reference, target, temperature), logits, weights=weights
    )
    for name, found, true, theirs in zip(("log_prob", "entropy", "kl"), mine, exact, same, strict=True):
        assert_as_accurate_as_torch(found, true, theirs, name=name)
    assert_as_accurate_as_torch(dz, dz_exact, dz_same, name="dz")


def test_gradients_are_those_of_finite_differences(rng: torch.Generator) -> None:
    logits, reference, target, _ = random_case(rng, 4, 6)
    target[3] = -1

    def ours(z: Tensor) -> tuple[Tensor, ...]:
        found = logprob_entropy(
            z,
            target,
            temperature=0.7,
            vocab_size=5,
            ignore_index=-1,
            reference_logits=reference.double(),
        )
        return all_three(found)

    target.clamp_(max=4)
    assert torch.autograd.gradcheck(ours, (logits.double().requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_divergence_near_0_keeps_its_relative_precision(
    rng: torch.Generator, backend: str, dtype: torch.dtype
) -> None:
    """Down to 1e-8 nats, where ``sum p (log p - log q)`` in fp32 is noise."""
    logits, _, target, _ = random_case(rng, 20, 3000)
    spread = torch.logspace(-4, -1, 20)[:, None]
    logits = logits.to(dtype)
    reference = (logits.float() + spread * torch.randn(20, 3000, generator=rng)).to(dtype)
    exact = textbook_kl(logits.double(), reference.double())
    found = logprob_entropy(logits, target, reference_logits=reference, backend=backend).kl
    assert found is not None
    assert float(exact.min()) < 1e-7
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=1e-14)
    usual = textbook_kl(logits.float(), reference.float()).double()
    assert float(((usual - exact) / exact).abs().max()) > 1


def test_equal_policies_do_not_differ(rng: torch.Generator, backend: str) -> None:
    logits, _, target, weights = random_case(rng, 20, 3000)

    def ours(z: Tensor) -> tuple[Tensor]:
        found = logprob_entropy(z, target, reference_logits=logits, backend=backend, temperature=0.7).kl
        assert found is not None
        return (found,)

    (kl,), (dz,) = differentiated(ours, logits, weights=weights[2:])
    assert float(kl.max()) < 1e-13
    assert float(dz.abs().max()) < 1e-6 * float(weights[2].abs().max())


def test_two_outcomes_in_closed_form(backend: str) -> None:
    """p log(p / q) + (1 - p) log((1 - p) / (1 - q)), far apart too."""
    p = torch.tensor([0.5, 0.9, 0.5, 1e-3, 0.3], dtype=torch.float64)
    q = torch.tensor([0.5, 0.1, 1e-20, 0.999, 0.3000001], dtype=torch.float64)
    exact = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    logits, reference = (torch.stack([x.log(), (-x).log1p()], dim=1).float() for x in (p, q))
    target = torch.zeros(5, dtype=torch.int64)
    found = logprob_entropy(logits, target, reference_logits=reference, backend=backend).kl
    assert found is not None
    torch.testing.assert_close(found[:4].double(), exact[:4], rtol=1e-6, atol=1e-13)
    assert float(found[4]) == pytest.approx(float(textbook_kl(logits.double(), reference.double())[4]), 1e-4)


@pytest.mark.parametrize("offset", [30.0, -30.0, -200.0])
def test_an_offset_of_either_policy_changes_nothing(
    rng: torch.Generator, backend: str, offset: float
) -> None:
    logits, reference, target, weights = random_case(rng, 20, 3000)
    logits, reference = (x.mul(64).round() / 64 for x in (logits, reference))  # survives the offset

    def ours(z: Tensor, ref: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        def kl(z: Tensor) -> tuple[Tensor, ...]:
            return all_three(logprob_entropy(z, target, reference_logits=ref, backend=backend))

        return differentiated(kl, z, weights=weights)

    (*_, exact), (dz_exact,) = ours(logits, reference)
    for moved in ((offset, offset), (offset, 0.0), (0.0, offset)):
        (*_, kl), (dz,) = ours(logits + moved[0], reference + moved[1])
        torch.testing.assert_close(kl, exact, rtol=1e-5, atol=1e-6)
        # The gradient takes the difference of the logits, which is rounded where they are far apart.
        rounding = 2**-23 * abs(moved[0] - moved[1]) * float(weights[2].abs().max())
        torch.testing.assert_close(dz, dz_exact, rtol=1e-5, atol=1e-6 + rounding)


# ---------------------------------------------------------------- excluded tokens, padding, NaN


def test_excluded_tokens(rng: torch.Generator, backend: str) -> None:
    """By both or by the policy alone: no part of KL. By the reference alone: KL is infinite."""
    logits, reference, _, weights = random_case(rng, 6, 3000)
    is_out = torch.rand(logits.shape, generator=rng) < 0.5
    logits[is_out] = -torch.inf
    reference[:3][is_out[:3]] = -torch.inf
    logits[0, :2500] = reference[0, :2500] = -torch.inf  # a whole block
    target = logits.argmax(1)
    reference[5, target[5]] = -torch.inf

    def ours(z: Tensor) -> tuple[Tensor, ...]:
        return all_three(logprob_entropy(z, target, reference_logits=reference, backend=backend))

    (*_, kl), (dz,) = differentiated(ours, logits, weights=weights)
    exact = textbook_kl(logits.double(), reference.double())
    assert kl[5] == torch.inf
    torch.testing.assert_close(kl[:5].double(), exact[:5], rtol=1e-6, atol=1e-6)
    assert bool((dz[:5][is_out[:5]] == 0).all())
    assert bool(dz[:5].isfinite().all())


def test_padded_columns_and_ignored_rows_may_hold_anything(rng: torch.Generator, backend: str) -> None:
    logits, reference, target, weights = random_case(rng, 20, 97)
    target[3] = -100
    padding = torch.full((20, 31), torch.nan)

    def ours(z: Tensor, ref: Tensor, **options: Any) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        def kl(z: Tensor) -> tuple[Tensor, ...]:
            options.update(ignore_index=-100, backend=backend)
            return all_three(logprob_entropy(z, target, reference_logits=ref, **options))

        return differentiated(kl, z, weights=weights)

    expected, (dz_expected,) = ours(logits, reference)
    logits[3], reference[3] = torch.nan, torch.nan
    found, (dz,) = ours(torch.cat([logits, padding], 1), torch.cat([reference, padding], 1), vocab_size=97)
    assert [float(value[3]) for value in found] == [0.0] * 3
    for mine, true in zip(found, expected, strict=True):
        assert torch.equal(mine, true)
    assert torch.equal(dz[:, :97], dz_expected)
    assert bool((dz[:, 97:] == 0).all())


@pytest.mark.parametrize("place", ["policy", "reference"])
def test_a_nan_stays_in_its_row(rng: torch.Generator, backend: str, place: str) -> None:
    logits, reference, target, weights = random_case(rng, 3, 3000)
    (logits if place == "policy" else reference)[1, 2999] = torch.nan

    def kl_alone(z: Tensor) -> tuple[Tensor]:
        return (all_three(logprob_entropy(z, target, reference_logits=reference, backend=backend))[2],)

    (kl,), (dz,) = differentiated(kl_alone, logits, weights=weights[2:])
    assert kl.isnan().tolist() == [False, True, False]
    assert bool(dz[1].isnan().any())
    assert bool(dz[[0, 2]].isfinite().all())
    entropy = logprob_entropy(logits, target, reference_logits=reference, backend=backend).entropy
    assert entropy.isnan().tolist() == [False, place == "policy", False]


def test_writing_over_the_logits_changes_no_bit(rng: torch.Generator, backend: str) -> None:
    logits, reference, target, weights = random_case(rng, 20, 130)
    options: dict[str, Any] = {"reference_logits": reference, "vocab_size": 130, "backend": backend}
    _, (dz,) = differentiated(
        lambda z: all_three(logprob_entropy(z, target, **options)), logits, weights=weights
    )
    made = logits.clone().requires_grad_() * 1.0
    values = all_three(logprob_entropy(made, target, overwrite_logits=True, **options))
    (found,) = torch.autograd.grad(values, made, [w.float() for w in weights])
    assert torch.equal(found, dz)
    assert found.data_ptr() == made.data_ptr()
