"""log_prob, entropy and both gradients: closed forms, padding, types, shards, refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.rows import random_case
from support.truth import gradients, textbook
from torch import Tensor

from megaent.ops import logprob_entropy
from megaent.ops.backend import get_backend


def test_a_worked_case() -> None:
    """p = (1/8, 1/4, 5/8)."""
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]] * 3, dtype=torch.float64)
    result = logprob_entropy(logits, torch.tensor([0, 1, 2]))
    assert result.entropy.tolist() == pytest.approx([0.9002560512685367] * 3, abs=1e-15)
    assert result.log_prob.exp().tolist() == pytest.approx([0.125, 0.25, 0.625], abs=1e-15)


@pytest.mark.parametrize(("offset", "usual_error"), [(0.0, 0.01), (25.0, 0.5)])
def test_small_entropies_keep_their_relative_precision(offset: float, usual_error: float) -> None:
    """One column leads the 999 others by d: H = log1p(s) + d s / (1 + s), s = 999 exp(-d)."""
    leads = [8.0, 12.0, 16.5, 20.0, 24.0, 30.5, 40.0, 60.0]
    logits = torch.full((len(leads), 1000), offset)
    logits -= torch.tensor(leads)[:, None]
    logits[:, 3] = offset
    rests = [999 * math.exp(-d) for d in leads]
    exact = torch.tensor(
        [math.log1p(s) + d * s / (1 + s) for d, s in zip(leads, rests, strict=True)], dtype=torch.float64
    )
    ours = logprob_entropy(logits, torch.full((len(leads),), 3)).entropy.double()
    assert float(((ours - exact) / exact).abs().max()) < 1e-6
    p_NV = logits.softmax(1)
    naive = (logits.logsumexp(1) - (p_NV * logits).sum(1)).double()
    assert float(((naive - exact) / exact).abs().max()) > usual_error, "lse - sum p z loses them"


def test_gradients_are_those_of_finite_differences(rng: torch.Generator) -> None:
    logits = torch.randn(4, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 5, 2, -1])

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        return logprob_entropy(z, target, temperature=0.7, vocab_size=6, ignore_index=-1)[:2]

    assert torch.autograd.gradcheck(both, (logits,))


@pytest.mark.parametrize("output", [0, 1])
def test_each_output_alone_sends_its_own_gradient(rng: torch.Generator, output: int) -> None:
    logits, target, cotangents = random_case(rng, 9, 50, torch.float64)
    kept = tuple(c * (number == output) for number, c in enumerate(cotangents))
    _, (exact,) = gradients(lambda z: textbook(z, target), logits, cotangents=kept)
    leaf = logits.clone().requires_grad_()
    chosen = logprob_entropy(leaf, target)[:2][output]
    (found,) = torch.autograd.grad(chosen, leaf, cotangents[output])
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-14)


def test_a_second_derivative_is_refused_and_not_wrong(rng: torch.Generator) -> None:
    logits, target, _ = random_case(rng, 3, 5, torch.float64)
    leaf = logits.requires_grad_()
    entropy = logprob_entropy(leaf, target).entropy.sum()
    with pytest.raises(RuntimeError):  # noqa: PT012 - either call may refuse
        (grad,) = torch.autograd.grad(entropy, leaf, create_graph=True)
        grad.square().sum().backward()


# ---------------------------------------------------------------- padding and ignored tokens


@pytest.mark.parametrize("filling", [0.0, 1e9, torch.inf, torch.nan])
def test_padded_columns_do_not_exist(rng: torch.Generator, filling: float) -> None:
    logits, target, cotangents = random_case(rng, 20, 97)
    padded = torch.cat([logits, torch.full((20, 31), filling)], dim=1)
    plain, (dz,) = gradients(lambda z: logprob_entropy(z, target), logits, cotangents=cotangents)
    ours, (dz_padded,) = gradients(
        lambda z: logprob_entropy(z, target, vocab_size=97), padded, cotangents=cotangents
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
    assert torch.equal(dz_padded[:, :97], dz)
    assert bool((dz_padded[:, 97:] == 0).all())


@pytest.mark.parametrize("ignore_index", [-100, -1, 3])
def test_an_ignored_token_is_zero_and_teaches_nothing(rng: torch.Generator, ignore_index: int) -> None:
    logits, target, cotangents = random_case(rng, 20, 30)
    target[target == ignore_index] = 0
    target[::3] = ignore_index
    plain, (dz_plain,) = gradients(
        lambda z: logprob_entropy(z, target.clamp(min=0)), logits, cotangents=cotangents
    )
    ours, (dz,) = gradients(
        lambda z: logprob_entropy(z, target, ignore_index=ignore_index), logits, cotangents=cotangents
    )
    is_ignored = target == ignore_index
    for mine, theirs in (*zip(ours, plain, strict=True), (dz, dz_plain)):
        assert bool((mine[is_ignored] == 0).all())
        assert torch.equal(mine[~is_ignored], theirs[~is_ignored])


@pytest.mark.parametrize("filling", [torch.nan, -torch.inf])
def test_an_ignored_token_may_have_any_logits(rng: torch.Generator, filling: float) -> None:
    logits, target, cotangents = random_case(rng, 6, 11)
    target[2], logits[2] = -100, filling
    ours, (dz,) = gradients(
        lambda z: logprob_entropy(z, target, ignore_index=-100), logits, cotangents=cotangents
    )
    assert [float(value[2]) for value in ours] == [0.0, 0.0]
    assert dz[2].tolist() == [0.0] * 11
    assert bool(dz.isfinite().all())


# ---------------------------------------------------------------- layout, repeatability, types


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_give_fp32_statistics(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits, target, cotangents = random_case(rng, 63, 1000, dtype)
    ours, (dz,) = gradients(lambda z: logprob_entropy(z, target), logits, cotangents=cotangents)
    exact, (dz_exact,) = gradients(lambda z: textbook(z, target), logits.double(), cotangents=cotangents)
    assert [value.dtype for value in ours] == [torch.float32] * 2
    for mine, true in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-6, atol=2e-6)
    assert dz.dtype == dtype
    # The gradient is rounded to the input's type once, at the end.
    torch.testing.assert_close(dz, dz_exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_the_distribution(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits, target, _ = random_case(rng, 63, 1000, dtype)
    exact = textbook(logits.double(), target, temperature=1.7)
    ours = logprob_entropy(logits.requires_grad_(), target, temperature=1.7, extras=("sum_p2", "varentropy"))
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    for name in ("sum_p2", "varentropy"):
        value = getattr(ours, name)
        assert not value.requires_grad
        torch.testing.assert_close(value.double(), getattr(exact, name), rtol=tolerance, atol=tolerance)
    alone = logprob_entropy(logits, target, temperature=1.7, extras=("varentropy",))
    assert alone.sum_p2 is None
    torch.testing.assert_close(alone.varentropy, ours.varentropy, rtol=0, atol=0)


def test_the_moments_of_two_outcomes_in_closed_form() -> None:
    """p and q = 1 - p: sum p^2 = p^2 + q^2, Var[log p] = p q log(p / q)^2."""
    p = torch.tensor([0.5, 0.9, 0.999], dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], dim=1)
    ours = logprob_entropy(logits, torch.zeros(3, dtype=torch.int64), extras=("sum_p2", "varentropy"))
    torch.testing.assert_close(ours.sum_p2, p**2 + (1 - p) ** 2, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(
        ours.varentropy, p * (1 - p) * (p / (1 - p)).log() ** 2, rtol=1e-12, atol=1e-15
    )


# ---------------------------------------------------------------- shards of the vocabulary


def through_shards(
    logits: Tensor, target: Tensor, widths: list[int], cotangents: tuple
) -> tuple[Tensor, ...]:
    """(statistics, dz) as the ranks of a vocabulary-parallel group compute them, in this process."""
    backend = get_backend("reference")
    starts = [sum(widths[:number]) for number in range(len(widths))]
    shards = logits.split(widths, dim=1)
    partials = [
        backend.logits_stats(z, target, vocab_start=start, inv_temperature=1.25, moments=True)
        for z, start in zip(shards, starts, strict=True)
    ]
    stats = backend.stats_combine(partials, inv_temperature=1.25)
    grads = [
        backend.logits_stats_backward(
            z,
            target,
            stats,
            grad_log_prob_N=cotangents[0].to(stats.dtype),
            grad_entropy_N=cotangents[1].to(stats.dtype),
            vocab_start=start,
            inv_temperature=1.25,
        )
        for z, start in zip(shards, starts, strict=True)
    ]
    return stats, torch.cat(grads, dim=1)


@pytest.mark.parametrize(
    "widths", [[50, 50], [3, 97], [40, 59, 1], [25, 25, 25, 25], [0, 60, 40], [60, 40, 0]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shards_give_what_the_whole_gives(
    rng: torch.Generator, widths: list[int], dtype: torch.dtype
) -> None:
    logits, target, cotangents = random_case(rng, 64, 100, dtype)
    logits[3, : widths[0]] = -torch.inf  # a shard without any mass in this row
    logits[4, widths[0] :] = -torch.inf
    logits[5] = -300.0  # equal maxima in every shard
    logits[6] = logits[6] * 40  # peaked
    target[3], target[4] = 99, 0
    if widths[0] == 0:
        logits[4] = logits[7]
    exact = textbook(logits.double(), target, temperature=0.8)
    tolerance: dict[str, Any] = (
        {"rtol": 2e-6, "atol": 5e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    )
    stats, dz = through_shards(logits, target, widths, cotangents)
    for row, true in ((0, exact.log_prob), (1, exact.entropy), (4, exact.sum_p2), (5, exact.varentropy)):
        torch.testing.assert_close(stats[row].double(), true, **tolerance)
    whole = logprob_entropy(logits, target, temperature=0.8, extras=("sum_p2", "varentropy"))
    torch.testing.assert_close(stats[1], whole.entropy, **tolerance)
    finite = logits.clamp(min=-1e4).double()  # autograd of 0 log 0 is NaN; -1e4 has no mass either
    _, (dz_exact,) = gradients(lambda z: textbook(z, target, temperature=0.8), finite, cotangents=cotangents)
    torch.testing.assert_close(dz.double(), dz_exact, **tolerance)


def test_peaked_rows_keep_their_entropy_across_shards() -> None:
    leads = torch.tensor([12.0, 20.0, 30.5, 60.0])
    logits = torch.zeros(4, 1000) - leads[:, None]
    logits[:, 900] = 0.0
    rest = 999 * (-leads.double()).exp()
    exact = rest.log1p() + leads.double() * rest / (1 + rest)
    stats, _ = _stats_only(logits, [300, 500, 200])
    torch.testing.assert_close(stats[1].double(), exact, rtol=1e-6, atol=0)


def _stats_only(logits: Tensor, widths: list[int]) -> tuple[Tensor, None]:
    backend = get_backend()
    target = torch.zeros(logits.shape[0], dtype=torch.int64)
    partials, start = [], 0
    for shard in logits.split(widths, dim=1):
        partials.append(
            backend.logits_stats(shard, target, vocab_start=start, inv_temperature=1.0, moments=False)
        )
        start += shard.shape[1]
    return backend.stats_combine(partials, inv_temperature=1.0), None


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"shape \[N\].*got \[3\]"),
        ({"target": torch.zeros(4, dtype=torch.int32)}, "int64, got torch.int32"),
        ({"logits": torch.zeros(4, 5, 1)}, "shape"),
        ({"temperature": 0.0}, "temperature must be above 0, got 0"),
        ({"temperature": float("nan")}, "temperature must be above 0, got nan"),
        ({"extras": ("rank",)}, "extras must be among.*rank"),
        ({"backend": "fast"}, "backend must be one of reference.*'fast'"),
        ({"target": torch.tensor([0, 1, 5, 0])}, r"\[0, 5\), got 5 at position 2"),
        ({"target": torch.tensor([0, -100, 5, 0])}, "got -100 at position 1"),
        ({"target": torch.tensor([0, -100, 4, 0]), "ignore_index": -1}, "got -100 at position 1"),
        ({"target": torch.tensor([0, 1, 4, 0]), "vocab_size": 4}, r"\[0, 4\), got 4 at position 2"),
    ],
)
def test_bad_arguments_are_refused_with_what_came(change: dict, message: str) -> None:
    arguments: dict[str, Any] = {
        "logits": torch.zeros(4, 5),
        "target": torch.zeros(4, dtype=torch.int64),
    } | change
    with pytest.raises(ValueError, match=message):
        logprob_entropy(arguments.pop("logits"), arguments.pop("target"), **arguments)
