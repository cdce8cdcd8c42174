"""The Triton row kernels in the interpreter; test_triton_interpreter.py runs this file in its own process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from megaent_kernels import logits_gradient as gradient_kernels
from megaent_kernels import logits_stats as row_kernels
from megaent_kernels.tune import BackwardLaunch, ForwardLaunch
from support.compare import assert_as_accurate_as_torch
from support.truth import Statistics, gradients, textbook
from torch import Tensor

from megaent.ops import triton

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
NAMES = Statistics._fields


def random_case(rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype = torch.float32):
    logits = (3 * torch.randn(num_tokens, vocab, generator=rng, dtype=torch.float64)).to(dtype)
    target = torch.randint(vocab, (num_tokens,), generator=rng)
    return logits, target, torch.randn(2, num_tokens, generator=rng, dtype=torch.float64)


def partial(
    logits: Tensor, target: Tensor, temperature: float = 1.0, start: int = 0, *, moments: bool = True
) -> Tensor:
    return triton.logits_stats(
        logits, target, vocab_start=start, inv_temperature=1 / temperature, moments=moments
    )


def whole(parts: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    return triton.stats_combine(parts, inv_temperature=1 / temperature)


def gradient(
    logits: Tensor,
    target: Tensor,
    stats: Tensor,
    cotangents: Sequence[Tensor | None],
    temperature: float = 1.0,
    start: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    g_log_prob, g_entropy = (None if g is None else g.float() for g in cotangents)
    return triton.logits_stats_backward(
        logits,
        target,
        stats,
        grad_log_prob_N=g_log_prob,
        grad_entropy_N=g_entropy,
        vocab_start=start,
        inv_temperature=1 / temperature,
        out=out,
    )


def compare_with_textbook(
    logits: Tensor, target: Tensor, cotangents: Tensor, temperature: float = 1.0
) -> None:
    """Values and gradients against fp64, with plain PyTorch's error in fp32 as the measure."""
    stats = whole([partial(logits, target, temperature)], temperature)
    dz = gradient(logits, target, stats, cotangents, temperature)
    exact = textbook(logits.double(), target, temperature=temperature)
    same = textbook(logits.float(), target, temperature=temperature)
    for name, mine in zip(NAMES, stats[[0, 1, 4, 5]], strict=True):
        assert_as_accurate_as_torch(mine, getattr(exact, name), getattr(same, name), name=name)

    def plain(z: Tensor) -> Statistics:
        return textbook(z, target, temperature=temperature)

    _, (dz_exact,) = gradients(plain, logits.double(), cotangents=list(cotangents))
    _, (dz_same,) = gradients(plain, logits.float(), cotangents=list(cotangents))
    assert dz.dtype == logits.dtype
    if logits.dtype == torch.float32:
        assert_as_accurate_as_torch(dz, dz_exact, dz_same, name="dz")
    else:  # rounded once, at the end
        eps = torch.finfo(logits.dtype).eps
        torch.testing.assert_close(dz.double(), dz_exact, rtol=eps, atol=2e-6)


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize(
    ("num_tokens", "vocab", "dtype"),
    [
        (63, 7, torch.float32),
        *itertools.product([0], [7], DTYPES),
        *itertools.product([1], [1, 3200], DTYPES),
    ],
)
def test_values_and_gradients_at_odd_sizes(
    rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype
) -> None:
    compare_with_textbook(*random_case(rng, num_tokens, vocab, dtype))


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_values_and_gradients_under_temperature(rng: torch.Generator, temperature: float) -> None:
    compare_with_textbook(*random_case(rng, 5, 1000), temperature)


@pytest.mark.parametrize("offset", [30.0, -30.0, -200.0, 1e4])
def test_an_offset_of_all_logits_changes_no_bit(rng: torch.Generator, offset: float) -> None:
    """Rows below -104 too, where exp of a logit itself would be 0."""
    logits, target, _ = random_case(rng, 5, 1000)
    coarse = (logits * 64).round() / 64  # survives the offset without rounding
    moved, plain = whole([partial(coarse + offset, target)]), whole([partial(coarse, target)])
    kept = [0, 1, 3, 4, 5]  # all but m
    assert torch.equal(moved[kept], plain[kept])
    compare_with_textbook(*random_case(rng, 3, 1000)[:2], torch.ones(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("gap", [13.0, 17.0, 21.0, 27.0])
def test_small_entropies_keep_their_relative_precision(rng: torch.Generator, gap: float) -> None:
    """One token far ahead: H is near 0, and an error of 1e-7 would be all of it."""
    logits = torch.randn(4, 1000, generator=rng)
    logits[:, 417] += gap
    target = torch.full((4,), 417)
    stats, exact = whole([partial(logits, target)]), textbook(logits.double(), target)
    assert float(exact.entropy.max()) < 1
    torch.testing.assert_close(stats[1].double(), exact.entropy, rtol=2e-6, atol=0)
    torch.testing.assert_close(stats[0].double(), exact.log_prob, rtol=2e-6, atol=0)


def test_equal_maxima_are_all_counted(rng: torch.Generator) -> None:
    logits = torch.full((3, 1000), -40.0)
    logits[0, [3, 4, 500, 999]] = 2.0  # neighbours, and lanes apart
    logits[1] = -3.0
    logits[2, 7] = 0.0
    stats = whole([partial(logits, torch.tensor([3, 0, 7]))])
    expected = torch.tensor([math.log(4), math.log(1000)])
    torch.testing.assert_close(stats[1, :2], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(stats[0, :2], -expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(stats[4], torch.tensor([0.25, 1e-3, 1.0]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_has_no_probability(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits, _, cotangents = random_case(rng, 6, 3200, dtype)
    kept = torch.rand(logits.shape, generator=rng).argsort(1) < 40
    logits[~kept] = -torch.inf
    logits[:3, :2048] = -torch.inf  # whole tiles
    target = logits.argmax(1)
    stats, exact = whole([partial(logits, target)]), textbook(logits.double(), target)
    for name, mine in zip(NAMES, stats[[0, 1, 4, 5]], strict=True):
        torch.testing.assert_close(mine.double(), getattr(exact, name), rtol=2e-6, atol=2e-6)
    dz = gradient(logits, target, stats, cotangents)
    assert bool((dz[logits == -torch.inf] == 0).all())
    assert bool(dz.isfinite().all())


def test_one_huge_logit_leaves_no_entropy(rng: torch.Generator) -> None:
    logits, target, cotangents = random_case(rng, 4, 1000)
    logits[:, 417] = torch.tensor([2e2, 1e4, 1e30, 3e38])
    target[:2] = 417
    stats = whole([partial(logits, target, 0.3)], 0.3)
    assert stats[1].tolist() == [0.0] * 4
    assert stats[0, :2].tolist() == [0.0, 0.0]
    assert bool(gradient(logits, target, stats, cotangents, 0.3).isfinite().all())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 17, 3199])
def test_what_is_not_a_number_stays_none_in_its_row_alone(value: float, place: int) -> None:
    logits = torch.zeros(3, 3200)
    logits[1, place] = value
    target = torch.zeros(3, dtype=torch.int64)
    stats = whole([partial(logits, target)])
    assert bool(stats[:2, 1].isnan().all())
    assert bool(stats[:, [0, 2]].isfinite().all())
    dz = gradient(logits, target, stats, torch.ones(2, 3))
    assert bool(dz[1].isnan().all())
    assert bool(dz[[0, 2]].isfinite().all())


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_give_the_same_bits_wherever_they_lie(rng: torch.Generator, dtype: torch.dtype) -> None:
    """Unaligned rows, rows of a wider tensor, columns apart, and a batch taken row by row."""
    logits, target, cotangents = random_case(rng, 5, 1001, dtype)
    wide = torch.full((5, 1016), torch.nan, dtype=dtype)
    apart = torch.full((1001, 5), torch.nan, dtype=dtype)
    wide[:, 1:1002], apart[:] = logits, logits.T
    aligned = torch.full((5, 1016), torch.nan, dtype=dtype)
    aligned[:, :1001] = logits
    expected = partial(logits, target)
    stats = whole([expected])
    dz = gradient(logits, target, stats, cotangents)
    for view in (wide[:, 1:1002], apart.T, aligned[:, :1001]):
        assert torch.equal(partial(view, target), expected)
        assert torch.equal(gradient(view, target, stats, cotangents), dz)
    singles = [partial(logits[i : i + 1], target[i : i + 1]) for i in range(5)]
    assert torch.equal(torch.cat(singles, dim=1), expected)


def test_unaligned_rows_are_copied_in_pieces(rng: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, target, _ = random_case(rng, 5, 1001)
    expected = partial(logits, target)
    monkeypatch.setattr(row_kernels, "COPY_BYTES", 2 * 1004 * 4)  # two rows at a time
    assert torch.equal(partial(logits, target), expected)


def test_the_gradient_may_be_written_over_the_logits_and_into_a_view(rng: torch.Generator) -> None:
    logits, target, cotangents = random_case(rng, 3, 1000, torch.bfloat16)
    stats = whole([partial(logits, target)])
    expected = gradient(logits, target, stats, cotangents)
    wide = torch.full((3, 1016), 7.0, dtype=torch.bfloat16)
    apart = torch.empty(1000, 3, dtype=torch.bfloat16).T
    for out in (wide[:, 3:1003], apart, logits.clone()):
        assert gradient(logits, target, stats, cotangents, out=out) is out
        assert torch.equal(out, expected)
    assert bool((wide[:, :3] == 7).all())
    assert bool((wide[:, 1003:] == 7).all())
    assert torch.equal(gradient(logits, target, stats, cotangents, out=logits), expected)


def test_a_gradient_that_is_none_counts_as_zero(rng: torch.Generator) -> None:
    logits, target, cotangents = random_case(rng, 3, 1000)
    stats = whole([partial(logits, target)])
    zero = torch.zeros(3)
    for given in ((cotangents[0], None), (None, cotangents[1])):
        filled = [zero if g is None else g for g in given]
        torch.testing.assert_close(
            gradient(logits, target, stats, given),
            gradient(logits, target, stats, filled),
            rtol=1e-6,
            atol=1e-7,
        )
    assert torch.equal(gradient(logits, target, stats, (None, None)), torch.zeros_like(logits))


# ---------------------------------------------------------------- splits of a row


def test_spans_of_a_row_are_merged_exactly(rng: torch.Generator) -> None:
    """Seven spans of 512, the last of them ragged and one of -inf alone, against one span of all."""
    logits, target, cotangents = random_case(rng, 4, 3190)
    logits[0, 1024:1536] = -torch.inf
    target[:] = torch.tensor([5, 511, 512, 3189])  # at the edges of spans
    options = {"vocab_start": 0, "inv_temperature": 1.25}
    one, many = (
        row_kernels.logits_stats(
            logits, target, moments=True, launch=ForwardLaunch(32, span, num_warps=1), **options
        )
        for span in (4096, 512)
    )
    assert torch.equal(one[0], many[0])
    assert torch.equal(one[4], many[4])
    torch.testing.assert_close(one[1] + one[2], many[1] + many[2], rtol=3e-7, atol=0)
    torch.testing.assert_close(one[[3, 5, 6]], many[[3, 5, 6]], rtol=1e-6, atol=0)
    stats, out = whole([many], 0.8), torch.empty_like(logits)
    gradient_kernels.logits_stats_backward(
        logits,
        target,
        stats,
        out,
        grad_log_prob_N=cotangents[0],
        grad_entropy_N=cotangents[1],
        launch=BackwardLaunch(256, 1),
        **options,
    )
    torch.testing.assert_close(out, gradient(logits, target, stats, cotangents, 0.8), rtol=1e-6, atol=1e-7)


def test_a_shard_of_minus_infinity_alone_has_nothing_to_give() -> None:
    """Merged from three spans, it is what an empty shard is, and harms no other."""
    nothing = row_kernels.logits_stats(
        torch.full((2, 1500), -torch.inf),
        torch.tensor([0, 1999]),
        vocab_start=500,
        inv_temperature=1.0,
        moments=True,
        launch=ForwardLaunch(32, 512, num_warps=1),
    )
    empty = partial(torch.zeros(2, 0), torch.tensor([0, 1999]))
    assert torch.equal(nothing[[0, 1, 2, 3, 5, 6]], empty[[0, 1, 2, 3, 5, 6]])
    assert nothing[4].tolist() == [0.0, -math.inf]
    something = partial(torch.zeros(2, 500), torch.tensor([0, 1999]))
    stats = whole([nothing, something, empty])
    assert stats[0].tolist() == [pytest.approx(-math.log(500), rel=1e-6), -math.inf]
    assert stats[1].tolist() == [pytest.approx(math.log(500), rel=1e-6)] * 2


@pytest.mark.parametrize("cuts", [(500,), (1, 8, 999), (0, 300, 300)])
def test_shards_of_the_vocabulary_give_the_whole(rng: torch.Generator, cuts: tuple[int, ...]) -> None:
    """Uneven ones, one of a column, empty ones, and one whose part of a row is -inf."""
    logits, target, cotangents = random_case(rng, 4, 1000)
    logits[0, cuts[-1] :] = -torch.inf
    logits[0, 0] = 1.0
    target[:] = torch.tensor([0, cuts[0], cuts[-1] - 1, cuts[-1]])  # at the edges of shards
    edges = [0, *cuts, 1000]
    shards = [(a, logits[:, a:b]) for a, b in itertools.pairwise(edges)]
    stats = whole([partial(z, target, start=a) for a, z in shards])
    exact = textbook(logits.double(), target)
    same = textbook(logits, target)
    for name, mine in zip(NAMES, stats[[0, 1, 4, 5]], strict=True):
        assert_as_accurate_as_torch(mine, getattr(exact, name), getattr(same, name), name=name)
    dz = torch.cat([gradient(z, target, stats, cotangents, start=a) for a, z in shards], dim=1)
    _, (dz_exact,) = gradients(lambda z: textbook(z, target), logits.double(), cotangents=list(cotangents))
    torch.testing.assert_close(dz.double(), dz_exact, rtol=2e-6, atol=2e-6)


def test_padded_columns_and_ignored_targets_read_nothing_of_others(rng: torch.Generator) -> None:
    logits, target, cotangents = random_case(rng, 4, 1000)
    padded = torch.full((4, 1024), torch.nan)
    padded[:, :1000] = logits
    target[1] = -100
    seen = partial(padded[:, :1000], target)
    assert float(seen[4, 1]) == 0.0
    cotangents[:, 1] = 0
    dz = gradient(padded[:, :1000], target, whole([seen]), cotangents)
    assert bool((dz[1] == 0).all())
    assert bool(dz.isfinite().all())


# ---------------------------------------------------------------- the interface


def test_types_it_does_not_serve_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits of torch\.bfloat16.*got torch\.float64.*reference"):
        partial(torch.zeros(1, 8, dtype=torch.float64), torch.tensor([0]))
    logits, target = torch.zeros(1, 8), torch.tensor([0])
    stats = whole([partial(logits, target)])
    with pytest.raises(ValueError, match=r"out must be like logits, \[1, 8\].*got \[1, 9\]"):
        gradient(logits, target, stats, torch.ones(2, 1), out=torch.zeros(1, 9))


def test_the_registered_ops_keep_their_word(rng: torch.Generator) -> None:
    logits, target, cotangents = random_case(rng, 3, 40)
    ops = torch.ops.megaent_triton
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(ops.logits_stats.default, (logits, target, 0, 1.0, True), test_utils=checks)
    part = partial(logits, target)
    torch.library.opcheck(ops.stats_combine.default, ([part, part], 1.0), test_utils=checks)
    g, h = cotangents.float()
    arguments = (logits, target, whole([part]), g, h, None, None, None, 0, 1.0, torch.zeros_like(logits))
    torch.library.opcheck(ops.logits_stats_backward.default, arguments, test_utils=checks)


def test_the_entropy_over_a_nucleus_is_refused_by_name() -> None:
    zeros = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="backend triton has no nucleus entropy"):
        triton.mass_by_digit(torch.zeros(2, 5), torch.zeros(2), zeros, shift=24, inv_temperature=1.0)
