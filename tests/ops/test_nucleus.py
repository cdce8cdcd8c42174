"""The entropy over the nucleus, beside a full sort in fp64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from megaent.ops import TokenStatistics, linear_logprob_entropy, logprob_entropy
from megaent.ops.backend import get_backend

TEMPERATURE = 1.3


def members(logits: Tensor, p: float, temperature: float = TEMPERATURE) -> Tensor:
    """[N, V] bool, by a sort of every row: whole runs of equal logits, until their probability reaches p."""
    probability = (logits.double() / temperature).softmax(1)
    inside = torch.zeros_like(logits, dtype=torch.bool)
    for row, shares, flags in zip(logits.tolist(), probability.tolist(), inside, strict=True):
        reached = 0.0
        for value in sorted(set(row), reverse=True):
            if reached >= p:
                break
            run = [place for place, other in enumerate(row) if other == value]
            reached = math.fsum([reached, *(shares[place] for place in run)])
            flags[run] = True
    return inside


def truth(logits: Tensor, inside: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """[N] with its gradient, the members held constant."""
    log_p = (logits / temperature).masked_fill(~inside, -torch.inf).log_softmax(1)
    return -(log_p.exp() * log_p.masked_fill(~inside, 0.0)).sum(1)


def entropies(logits: Tensor, p: float, **options: Any) -> Tensor:
    target = torch.zeros(logits.shape[0], dtype=torch.int64)
    found = logprob_entropy(logits, target, temperature=TEMPERATURE, nucleus_p=p, **options).nucleus_entropy
    assert found is not None
    return found


def peaked(rng: torch.Generator, num_tokens: int, vocab: int, *, ties: bool) -> Tensor:
    logits = 4 * torch.randn(num_tokens, vocab, generator=rng)
    return logits.round() if ties else logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("p", [0.05, 0.8, 0.999])
@pytest.mark.parametrize(("num_tokens", "vocab"), [(0, 7), (5, 1), (40, 17), (2, 2049)])
def test_values_and_gradients_are_those_of_a_full_sort(
    rng: torch.Generator,
    implementation: str,
    num_tokens: int,
    vocab: int,
    p: float,
    ties: bool,
    dtype: torch.dtype,
) -> None:
    logits = peaked(rng, num_tokens, vocab, ties=ties).to(dtype)
    inside = members(logits, p)
    exact = logits.double().requires_grad_()
    expected = truth(exact, inside)
    leaf = logits.clone().requires_grad_()
    found = entropies(leaf, p, backend=implementation)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-7)
    weights = torch.randn(num_tokens, generator=rng, dtype=torch.float64)
    (grad,) = torch.autograd.grad(found, leaf, weights.to(found.dtype))
    (by_sort,) = torch.autograd.grad(expected, exact, weights)
    half_a_step = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(grad.double(), by_sort, rtol=half_a_step, atol=1e-6)
    assert bool((grad[~inside] == 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_nucleus_of_everything_is_the_vocabulary(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits = peaked(rng, 20, 300, ties=True).to(dtype)
    logits[3, 5:] = -torch.inf
    for backend in ("reference", "cpu") if dtype in (torch.float32, torch.bfloat16) else ("reference",):
        found = logprob_entropy(logits, torch.zeros(20, dtype=torch.int64), nucleus_p=1.0, backend=backend)
        assert found.nucleus_entropy is not None
        assert torch.equal(found.nucleus_entropy, found.entropy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_have_their_own_number_of_passes(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits = peaked(rng, 30, 50, ties=False).to(dtype)
    for p in (0.3, 0.9):
        expected = truth(logits.double(), members(logits, p))
        found = entropies(logits, p, backend="reference")
        torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-7)


def test_a_nucleus_of_one_token_has_no_entropy_and_no_gradient(implementation: str) -> None:
    logits = torch.tensor([[9.0, 0.0, -1.0], [-3.0, -60.0, -torch.inf], [2.0, 2.0, 0.0]]).requires_grad_()
    found = entropies(logits, 0.5, backend=implementation)
    assert found.tolist() == [0.0, 0.0, pytest.approx(math.log(2))]
    (grad,) = torch.autograd.grad(found.sum(), logits)
    assert bool((grad[:2] == 0).all())
    torch.testing.assert_close(grad[2], torch.zeros(3), rtol=0.0, atol=1e-7)  # two of equal probability


def test_zeros_of_either_sign_are_one_logit(implementation: str) -> None:
    logits = torch.tensor([[0.0, -0.0, -9.0], [-0.0, 0.0, -9.0]])
    assert entropies(logits, 0.3, backend=implementation).tolist() == pytest.approx([math.log(2)] * 2)


def test_a_row_without_a_number_gives_none_and_leaves_the_others_alone(implementation: str) -> None:
    logits = torch.tensor([[1.0, torch.nan, 0.0], [1.0, 0.0, 0.5]])
    alone = entropies(logits[1:], 0.7, backend=implementation)
    found = entropies(logits, 0.7, backend=implementation)
    assert bool(found[0].isnan())
    assert torch.equal(found[1:], alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [[50, 50], [3, 97], [90, 4, 6], [0, 60, 40]])
def test_shards_add_up_the_same_integers(
    rng: torch.Generator, implementation: str, widths: list[int], dtype: torch.dtype
) -> None:
    logits = peaked(rng, 33, 100, ties=True).to(dtype)
    rows = get_backend(implementation)
    highest = logits.float().amax(1)
    prefix = torch.zeros(33, dtype=torch.int64)
    whole = rows.mass_by_digit(logits, highest, prefix, shift=24, inv_temperature=0.7)
    parts = [
        rows.mass_by_digit(shard, highest, prefix, shift=24, inv_temperature=0.7)
        for shard in logits.split(widths, 1)
    ]
    assert torch.equal(torch.stack(parts).sum(0), whole)
    prefix = (whole != 0).long().argmax(1)
    narrower = rows.mass_by_digit(logits, highest, prefix, shift=16, inv_temperature=0.7)
    assert torch.equal(narrower.sum(1), whole.gather(1, prefix[:, None])[:, 0])


@pytest.mark.parametrize("mode", ["recompute", "store"])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_hidden_states_give_what_their_logits_give(rng: torch.Generator, mode: str, backend: str) -> None:
    """Of small integers, so that every product is exact; in tiles of a few columns."""
    hidden = torch.randint(-2, 3, (33, 6), generator=rng).float().requires_grad_()
    weight = (torch.randint(-2, 3, (120, 6), generator=rng).float() / 2).requires_grad_()
    target = torch.randint(100, (33,), generator=rng)
    target[7] = -100
    weights = torch.randn(3, 33, generator=rng)
    options: dict[str, Any] = {"vocab_size": 100, "nucleus_p": 0.6, "ignore_index": -100, "backend": backend}

    def outputs(found: TokenStatistics) -> list[Tensor]:
        assert found.nucleus_entropy is not None
        return [found.log_prob, found.entropy, found.nucleus_entropy]

    tiled = outputs(
        linear_logprob_entropy(hidden, weight, target, mode=mode, workspace_bytes=5 * 480, **options)
    )
    plain = outputs(logprob_entropy(hidden @ weight.T, target, **options))
    assert tiled[2][7].item() == 0
    for mine, theirs in zip(tiled, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=2e-6)
    found = torch.autograd.grad(tiled, [hidden, weight], list(weights))
    expected = torch.autograd.grad(plain, [hidden, weight], list(weights))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_the_gradient_may_lie_over_the_logits(rng: torch.Generator, implementation: str) -> None:
    logits, weights = peaked(rng, 20, 40, ties=True), torch.randn(20, generator=rng)
    target = torch.zeros(20, dtype=torch.int64)

    def gradient(in_place: bool) -> Tensor:
        leaf = logits.clone().requires_grad_()
        found = logprob_entropy(
            leaf * 1.0, target, nucleus_p=0.7, overwrite_logits=in_place, backend=implementation
        )
        assert found.nucleus_entropy is not None
        return torch.autograd.grad([found.nucleus_entropy, found.log_prob], leaf, [weights, weights])[0]

    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize("p", [0.0, -0.1, 1.1, math.nan])
def test_a_probability_outside_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"nucleus_p must lie in \(0, 1\], got "):
        entropies(torch.zeros(2, 3), p)
