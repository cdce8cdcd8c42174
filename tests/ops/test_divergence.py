"""KL to a reference policy: against fp64, near 0, with excluded tokens, in shards and chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from support.compare import assert_as_accurate_as_torch
from support.truth import textbook, textbook_kl
from torch import Tensor

from megaent.ops import TokenStatistics, linear_logprob_entropy, logprob_entropy
from megaent.ops.backend import get_backend
from megaent.ops.divergence import Divergence, kl_combine


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


# ---------------------------------------------------------------- shards and chunks


@pytest.mark.parametrize("widths", [[50, 50], [3, 97], [40, 59, 1], [0, 60, 40], [60, 40, 0]])
def test_shards_give_what_the_whole_gives(rng: torch.Generator, backend: str, widths: list[int]) -> None:
    logits, reference, target, weights = random_case(rng, 32, 100)
    last = 100 - widths[-1] if widths[-1] else 60
    logits[3, last:] = -torch.inf  # a shard that has no probability under the policy
    logits[4, last:] = reference[4, last:] = -torch.inf  # under neither
    reference[5, last:] = -torch.inf  # under the reference
    logits[6] = reference[6] = 0.0
    logits[7] *= 40
    rows, options = get_backend(backend), {"inv_temperature": 1.25}
    partials, kl_partials, start = [], [], 0
    shards = list(zip(logits.split(widths, 1), reference.split(widths, 1), strict=True))
    for z, ref in shards:
        pair = [rows.logits_stats(x, target, vocab_start=start, moments=False, **options) for x in (z, ref)]
        partials.append(pair[0])
        kl_partials.append(rows.kl_partial(z, ref, *pair, **options))
        start += z.shape[1]
    stats = rows.stats_combine(partials, **options)
    kl_stats = kl_combine(partials, kl_partials, **options)
    exact = textbook_kl(logits.double(), reference.double(), temperature=0.8)
    assert_as_accurate_as_torch(kl_stats[0], exact, textbook_kl(logits, reference, temperature=0.8))
    assert float(kl_stats[0, 6]) == pytest.approx(0, abs=1e-13)
    grads = [
        rows.logits_stats_backward(
            z,
            target,
            stats,
            grad_log_prob_N=None,
            grad_entropy_N=None,
            vocab_start=0,
            divergence=Divergence(ref, kl_stats, weights[2].float()),
            **options,
        )
        for z, ref in shards
    ]
    finite = logits.clamp(min=-1e4).double()  # autograd of 0 log 0 is NaN; -1e4 has no mass either
    _, (dz_exact,) = differentiated(
        lambda z: (textbook_kl(z, reference.clamp(min=-1e4).double(), temperature=0.8),),
        finite,
        weights=weights[2:],
    )
    kept = torch.arange(32) != 5
    torch.testing.assert_close(torch.cat(grads, 1)[kept].double(), dz_exact[kept], rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("mode", ["recompute", "store"])
def test_hidden_states_give_what_their_logits_give(rng: torch.Generator, backend: str, mode: str) -> None:
    """The reference is of another width, and a chunk holds 7 rows of both."""
    width, vocab = 8, 120
    hidden, weight = torch.randn(63, width, generator=rng), torch.randn(vocab, width, generator=rng)
    other_hidden = torch.randn(63, 5, generator=rng)
    other_weight = torch.randn(vocab, 5, generator=rng)
    target = torch.randint(100, (63,), generator=rng)
    target[3], other_hidden[3] = -100, torch.nan
    weights = torch.randn(3, 63, generator=rng, dtype=torch.float64)
    options: dict[str, Any] = {"temperature": 0.8, "ignore_index": -100, "vocab_size": 100}

    def ours(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        found = linear_logprob_entropy(
            h,
            w,
            target,
            reference_hidden=other_hidden,
            reference_weight=other_weight,
            workspace_bytes=7 * 2 * vocab * 4,
            mode=mode,
            backend=backend,
            **options,
        )
        return all_three(found)

    def truth(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        reference = (other_hidden @ other_weight.T).to(h.dtype)
        return all_three(logprob_entropy(h @ w.T, target, reference_logits=reference, **options))

    mine, grads = differentiated(ours, hidden, weight, weights=weights)
    exact, grads_exact = differentiated(truth, hidden.double(), weight.double(), weights=weights)
    for found, true in zip((*mine, *grads), (*exact, *grads_exact), strict=True):
        torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=2e-5)


# ---------------------------------------------------------------- what is refused


def test_a_reference_that_does_not_fit_is_refused() -> None:
    logits, target = torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)
    for reference in (torch.zeros(4, 6), torch.zeros(4, 5).double()):
        with pytest.raises(ValueError, match=r"reference_logits must be like logits, \[4, 5\] torch.float32"):
            logprob_entropy(logits, target, reference_logits=reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_weight": None}, "go together, reference_weight is missing"),
        ({"reference_hidden": None}, "go together, reference_hidden is missing"),
        ({"reference_hidden": torch.zeros(3, 2)}, "as many rows as hidden and weight, 4 and 5, got 3 and 5"),
        ({"reference_weight": torch.zeros(6, 2)}, "4 and 5, got 4 and 6"),
        ({"reference_weight": torch.zeros(5, 3)}, r"with D = 2 as in reference_hidden, got \[5, 3\]"),
        ({"reference_weight": torch.zeros(5, 2).double()}, r"must be torch\.float32 as hidden is, got"),
    ],
)
def test_hidden_states_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"reference_hidden": torch.zeros(4, 2), "reference_weight": torch.zeros(5, 2)} | change
    with pytest.raises(ValueError, match=message):
        linear_logprob_entropy(
            torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64), **given
        )
