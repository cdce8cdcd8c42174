"""The same statistics without the logits in memory: chunks, modes, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.compare import assert_as_accurate_as_torch, assert_errs_like_torch
from support.truth import gradients, textbook
from torch import Tensor

from megaent.ops import linear_logprob_entropy, logprob_entropy
from megaent.ops.linear_logprob_entropy import columns_per_tile


def random_case(
    rng: torch.Generator,
    num_tokens: int,
    vocab: int,
    width: int = 8,
    dtype: torch.dtype = torch.float32,
):
    hidden = torch.randn(num_tokens, width, generator=rng, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocab, width, generator=rng, dtype=torch.float64).to(dtype)
    target = torch.randint(vocab, (num_tokens,), generator=rng)
    cotangents = tuple(torch.randn(2, num_tokens, generator=rng, dtype=torch.float64))
    return hidden, weight, target, cotangents


def compared(
    rng: torch.Generator, num_tokens: int, vocab: int, mode: str
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Ours, exact and plain PyTorch's in fp32, of every result and gradient of one random case."""
    hidden, weight, target, cotangents = random_case(rng, num_tokens, vocab)

    def plain(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return textbook(h @ w.T, target, temperature=0.8)

    def ours(h: Tensor, w: Tensor) -> Sequence[Tensor | None]:
        return linear_logprob_entropy(h, w, target, temperature=0.8, mode=mode, workspace_bytes=2**20)

    values, grads = gradients(ours, hidden, weight, cotangents=cotangents)
    exact, grads_exact = gradients(plain, hidden.double(), weight.double(), cotangents=cotangents)
    same, grads_same = gradients(plain, hidden, weight, cotangents=cotangents)
    assert [grad.dtype for grad in grads] == [torch.float32] * 2
    names = ("log_prob", "entropy", "dh", "dW")
    columns = zip((*values, *grads), (*exact, *grads_exact), (*same, *grads_same), strict=True)
    return dict(zip(names, columns, strict=True))


SIZES = [(t, v) for t in (0, 63, 1000) for v in (1, 7, 1000)] + [(t, 32003) for t in (0, 63)]


@pytest.mark.parametrize("mode", ["recompute", "store"])
@pytest.mark.parametrize(("num_tokens", "vocab"), SIZES)
def test_values_and_gradients_at_odd_sizes(
    rng: torch.Generator, num_tokens: int, vocab: int, mode: str
) -> None:
    for name, (mine, true, theirs) in compared(rng, num_tokens, vocab, mode).items():
        assert_as_accurate_as_torch(mine, true, theirs, name=name)


@pytest.mark.parametrize("mode", ["recompute", "store"])
@pytest.mark.parametrize(("vocab", "num_draws"), [(1, 3), (7, 100), (1000, 100), (32003, 10)])
def test_one_token_errs_no_more_than_torch_on_average(
    rng: torch.Generator, vocab: int, num_draws: int, mode: str
) -> None:
    """The largest of one row's few errors is a lottery, so the mean over many rows is compared."""
    draws = [compared(rng, 1, vocab, mode) for _ in range(num_draws)]
    for name in ("log_prob", "entropy", "dh", "dW"):
        mine, true, theirs = (
            torch.stack(column) for column in zip(*(draw[name] for draw in draws), strict=True)
        )
        assert_errs_like_torch(mine, true, theirs, name=name)


def test_gradients_are_those_of_finite_differences(rng: torch.Generator) -> None:
    hidden, weight, target, _ = random_case(rng, 5, 6, 3, torch.float64)
    target[1] = -1

    def both(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        return linear_logprob_entropy(
            h, w, target, temperature=0.7, vocab_size=6, ignore_index=-1, workspace_bytes=100
        )[:2]

    assert torch.autograd.gradcheck(both, (hidden.requires_grad_(), weight.requires_grad_()))


def test_modes_give_equal_bits(rng: torch.Generator) -> None:
    hidden, weight, target, cotangents = random_case(rng, 63, 1000)
    results = [
        gradients(
            lambda h, w, mode=mode: linear_logprob_entropy(h, w, target, mode=mode, workspace_bytes=40_000),
            hidden,
            weight,
            cotangents=cotangents,
        )
        for mode in ("recompute", "store", "recompute")
    ]
    for values, grads in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(values, results[0][0], strict=True))
        assert all(torch.equal(a, b) for a, b in zip(grads, results[0][1], strict=True))


@pytest.mark.parametrize("workspace_bytes", [1, 8 * 63 * 7, 8 * 63 * 64, 8 * 63 * 99, 2**30])
def test_tiles_give_what_one_tile_gives(rng: torch.Generator, workspace_bytes: int) -> None:
    hidden, weight, target, cotangents = random_case(rng, 63, 100, dtype=torch.float64)
    plain, grads_plain = gradients(
        lambda h, w: logprob_entropy(h @ w.T, target), hidden, weight, cotangents=cotangents
    )
    ours, grads = gradients(
        lambda h, w: linear_logprob_entropy(h, w, target, workspace_bytes=workspace_bytes),
        hidden,
        weight,
        cotangents=cotangents,
    )
    for mine, theirs in zip((*ours, *grads), (*plain, *grads_plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_workspace_bounds_the_logits_of_a_tile() -> None:
    hidden = torch.zeros(1000, 2)
    assert columns_per_tile(hidden, 4000) == 1
    assert columns_per_tile(hidden, 40_000) == 10
    assert columns_per_tile(hidden, 3) == 1, "one column at least"
    assert columns_per_tile(hidden.bfloat16(), 40_000) == 20, "in their own type"
    assert columns_per_tile(hidden.double(), 40_000) == 5
    assert columns_per_tile(hidden, 4000 * 200) == 192, "a multiple of 64"
    assert columns_per_tile(hidden, 40_000, num_policies=2) == 5


def test_padded_rows_of_the_weight_do_not_exist(rng: torch.Generator) -> None:
    hidden, weight, target, cotangents = random_case(rng, 20, 97, dtype=torch.float64)
    padded = torch.cat([weight, torch.full((31, 8), torch.nan, dtype=torch.float64)])
    plain, (dh, dw) = gradients(
        lambda h, w: linear_logprob_entropy(h, w, target), hidden, weight, cotangents=cotangents
    )
    ours, (dh_padded, dw_padded) = gradients(
        lambda h, w: linear_logprob_entropy(h, w, target, vocab_size=97),
        hidden,
        padded,
        cotangents=cotangents,
    )
    for mine, theirs in zip((*ours, dh_padded, dw_padded[:97]), (*plain, dh, dw), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    assert bool((dw_padded[97:] == 0).all())


def test_an_ignored_token_is_zero_and_teaches_nothing(rng: torch.Generator) -> None:
    hidden, weight, target, cotangents = random_case(rng, 20, 30, dtype=torch.float64)
    target[::3] = -100
    kept = target != -100
    plain, (dh, dw) = gradients(
        lambda h, w: linear_logprob_entropy(h, w, target[kept]),
        hidden[kept],
        weight,
        cotangents=tuple(c[kept] for c in cotangents),
    )
    ours, (dh_ours, dw_ours) = gradients(
        lambda h, w: linear_logprob_entropy(h, w, target, ignore_index=-100),
        hidden,
        weight,
        cotangents=cotangents,
    )
    assert bool((dh_ours[~kept] == 0).all())
    assert [float(value[~kept].abs().sum()) for value in ours] == [0.0, 0.0]
    for mine, theirs in (
        (ours[0][kept], plain[0]),
        (ours[1][kept], plain[1]),
        (dh_ours[kept], dh),
        (dw_ours, dw),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_bf16_gradients_of_the_weight_are_summed_in_fp32(rng: torch.Generator) -> None:
    """1024 equal contributions, one a chunk: in bf16 a sum of quarters stops growing at 64."""
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(4, 1, dtype=torch.bfloat16)
    target = torch.zeros(1024, dtype=torch.int64)
    ones = (torch.ones(1024), torch.zeros(1024))
    _, (_, dw) = gradients(
        lambda h, w: linear_logprob_entropy(h, w, target, workspace_bytes=8), hidden, weight, cotangents=ones
    )
    assert dw.dtype == torch.bfloat16
    assert dw[:, 0].tolist() == [768.0, -256.0, -256.0, -256.0]


def test_a_second_derivative_is_refused_and_not_wrong(rng: torch.Generator) -> None:
    hidden, weight, target, _ = random_case(rng, 3, 5, dtype=torch.float64)
    leaf = hidden.requires_grad_()
    entropy = linear_logprob_entropy(leaf, weight, target).entropy.sum()
    with pytest.raises(RuntimeError):  # noqa: PT012 - either call may refuse
        (grad,) = torch.autograd.grad(entropy, leaf, create_graph=True)
        grad.square().sum().backward()


def test_extras_are_those_of_the_logits(rng: torch.Generator) -> None:
    hidden, weight, target, _ = random_case(rng, 20, 30, dtype=torch.float64)
    exact = textbook(hidden @ weight.T, target)
    ours = linear_logprob_entropy(
        hidden, weight, target, extras=("varentropy", "sum_p2"), workspace_bytes=999
    )
    torch.testing.assert_close(ours.varentropy, exact.varentropy, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.sum_p2, exact.sum_p2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(5, 4)}, r"D = 3 as in hidden, got \[5, 4\]"),
        ({"weight": torch.zeros(5)}, r"\[V, D\]"),
        ({"mode": "fast"}, "recompute or store, got 'fast'"),
        ({"target": torch.tensor([5, 0])}, r"\[0, 5\), got 5 at position 0"),
        ({"temperature": -1.0}, "above 0, got -1"),
    ],
)
def test_bad_arguments_are_refused_with_what_came(change: dict, message: str) -> None:
    arguments: dict[str, Any] = {
        "weight": torch.zeros(5, 3),
        "target": torch.zeros(2, dtype=torch.int64),
    } | change
    with pytest.raises(ValueError, match=message):
        linear_logprob_entropy(
            torch.zeros(2, 3), arguments.pop("weight"), arguments.pop("target"), **arguments
        )
