"""The C++ row operations at every instruction level: against fp64, against each other, what they refuse."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from support.compare import assert_as_accurate_as_torch
from support.truth import gradients, textbook
from torch import Tensor

from megaent.ops import TokenStatistics, logprob_entropy, reference
from megaent.ops.backend import Backend, available_backends, get_backend
from megaent.ops.divergence import Divergence

pytestmark = pytest.mark.skipif(
    "cpu" not in available_backends(), reason="the C++ ops are not built; run `./scripts/build_ops`"
)

# A level this processor lacks has a test of its own: it is refused.
_CAPABILITY = torch.backends.cpu.get_cpu_capability()
_WITH_AVX2 = ["avx2"] if _CAPABILITY in ("AVX2", "AVX512") else []
_WITH_AVX512 = ["avx512"] if _CAPABILITY == "AVX512" else []
LEVELS = ["scalar", *_WITH_AVX2, *_WITH_AVX512]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MEGAENT_OPS_SIMD", request.param)
    return request.param


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def random_case(rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype = torch.float32):
    logits = (3 * torch.randn(num_tokens, vocab, generator=rng, dtype=torch.float64)).to(dtype)
    target = torch.randint(vocab, (num_tokens,), generator=rng)
    cotangents = tuple(torch.randn(2, num_tokens, generator=rng, dtype=torch.float64))
    return logits, target, cotangents


def ours(logits: Tensor, target: Tensor, **options: Any) -> TokenStatistics:
    return logprob_entropy(logits, target, backend="cpu", **options)


def compare_with_textbook(logits: Tensor, target: Tensor, cotangents: Sequence[Tensor], **options) -> None:
    """Values and gradients against fp64, with plain PyTorch's error in fp32 as the measure."""
    temperature = options.get("temperature", 1.0)

    def plain(z: Tensor) -> tuple[Tensor, ...]:
        return textbook(z, target, temperature=temperature)

    values, (dz,) = gradients(lambda z: ours(z, target, **options), logits, cotangents=cotangents)
    exact, (dz_exact,) = gradients(plain, logits.double(), cotangents=cotangents)
    same, (dz_same,) = gradients(plain, logits.float(), cotangents=cotangents)
    for name, mine, true, theirs in zip(("log_prob", "entropy"), values, exact, same, strict=True):
        assert_as_accurate_as_torch(mine, true, theirs, name=name)
    assert dz.dtype == logits.dtype
    if logits.dtype == torch.bfloat16:  # rounded once, at the end
        torch.testing.assert_close(dz, dz_exact.bfloat16(), rtol=2**-7, atol=1e-7)
    else:
        assert_as_accurate_as_torch(dz, dz_exact, dz_same, name="dz")


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_tokens", "vocab"), [(0, 7), (5, 1), (63, 7), (63, 16), (40, 1000), (9, 2049), (3, 32003)]
)
def test_values_and_gradients_at_odd_sizes(
    rng: torch.Generator, level: str, num_tokens: int, vocab: int, dtype: torch.dtype
) -> None:
    compare_with_textbook(*random_case(rng, num_tokens, vocab, dtype))


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_values_and_gradients_under_temperature(rng: torch.Generator, level: str, temperature: float) -> None:
    compare_with_textbook(*random_case(rng, 20, 5000), temperature=temperature)


@pytest.mark.parametrize("offset", [30.0, -30.0, -200.0, 1e4, -1e30])
def test_an_offset_of_all_logits_changes_nothing(rng: torch.Generator, level: str, offset: float) -> None:
    logits, target, cotangents = random_case(rng, 20, 3000)
    compare_with_textbook(logits + offset, target, cotangents)
    coarse = (logits * 64).round() / 64  # survives an offset up to 1e4 without rounding
    if abs(offset) <= 1e4:
        moved, plain = ours(coarse + offset, target), ours(coarse, target)
        assert torch.equal(moved.log_prob, plain.log_prob)
        assert torch.equal(moved.entropy, plain.entropy)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_has_no_probability(rng: torch.Generator, level: str, dtype: torch.dtype) -> None:
    """Whole blocks of it, too: with 64 columns of 9000 left, as top-p leaves them."""
    logits, target, cotangents = random_case(rng, 12, 9000, dtype)
    kept = torch.rand(logits.shape, generator=rng).argsort(1) < 64
    logits[~kept] = -torch.inf
    logits[:6, :5000] = -torch.inf
    target = logits.argmax(1)
    values, (dz,) = gradients(lambda z: ours(z, target), logits, cotangents=cotangents)
    assert bool((dz[logits == -torch.inf] == 0).all())
    exact = textbook(logits.double(), target)
    for mine, true in zip(values, exact, strict=False):
        torch.testing.assert_close(mine.double(), true, rtol=1e-6, atol=1e-6)


def test_a_target_without_probability_has_log_prob_minus_infinity(level: str) -> None:
    result = ours(torch.tensor([[0.0, 0.0, -torch.inf]]), torch.tensor([2]))
    assert result.log_prob.tolist() == [-math.inf]
    assert result.entropy.item() == pytest.approx(math.log(2), rel=1e-7)


def test_one_huge_logit_leaves_no_entropy(rng: torch.Generator, level: str) -> None:
    logits, target, cotangents = random_case(rng, 4, 5000)
    logits[:, 4017] = torch.tensor([2e2, 1e4, 1e30, 3e38])
    target[:2] = 4017
    values, (dz,) = gradients(lambda z: ours(z, target, temperature=0.3), logits, cotangents=cotangents)
    assert values[1].tolist() == [0.0] * 4
    assert values[0][:2].tolist() == [0.0, 0.0]
    assert bool(dz.isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 17, 4999])
def test_what_is_not_a_number_stays_none(level: str, dtype: torch.dtype, value: float, place: int) -> None:
    """In its row alone; a block of nothing else must not be taken for an empty one."""
    logits = torch.zeros(3, 5000, dtype=dtype)
    logits[1, place] = value
    logits[2, 2048:4096] = math.nan
    values, (dz,) = gradients(
        lambda z: ours(z, torch.zeros(3, dtype=torch.int64)), logits, cotangents=[torch.ones(3)] * 2
    )
    for result in (*values, dz.float().sum(1)):
        assert result.isnan().tolist() == [False, True, True]


def test_every_nan_is_one(level: str) -> None:
    """A NaN carries bits of its own, which must not be read as a number."""
    logits = torch.zeros(23, 100)
    logits.view(torch.int32)[torch.arange(22), 50] = 0x7FC00000 | 1 << torch.arange(22, dtype=torch.int32)
    values, (dz,) = gradients(
        lambda z: ours(z, torch.zeros(23, dtype=torch.int64)), logits, cotangents=[torch.ones(23)] * 2
    )
    for result in (*values, dz.sum(1)):
        assert result.isnan().tolist() == [True] * 22 + [False]


@pytest.mark.parametrize("count", [2, 3, 100])
def test_several_equal_maxima_share_the_probability(level: str, count: int) -> None:
    logits = torch.full((1, 9000), -torch.inf)
    logits[0, torch.arange(count) * 83] = 5.0
    result = ours(logits, torch.tensor([83]), extras=("sum_p2", "varentropy"))
    assert result.entropy.item() == pytest.approx(math.log(count), rel=1e-7)
    assert result.log_prob.item() == pytest.approx(-math.log(count), rel=1e-7)
    assert result.sum_p2 is not None
    assert result.varentropy is not None
    assert result.sum_p2.item() == pytest.approx(1 / count, rel=1e-7)
    assert result.varentropy.item() == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_of_the_distribution(rng: torch.Generator, level: str, dtype: torch.dtype) -> None:
    logits, target, _ = random_case(rng, 20, 5000, dtype)
    exact = textbook(logits.double(), target, temperature=1.7)
    result = ours(logits, target, temperature=1.7, extras=("sum_p2", "varentropy"))
    for name in ("sum_p2", "varentropy"):
        torch.testing.assert_close(
            getattr(result, name).double(), getattr(exact, name), rtol=2e-6, atol=1e-9, msg=name
        )


@pytest.mark.parametrize(("offset", "usual_error"), [(0.0, 0.01), (25.0, 0.5)])
def test_small_entropies_keep_their_relative_precision(
    rng: torch.Generator, level: str, offset: float, usual_error: float
) -> None:
    """Peaked rows, H down to 1e-23; plain PyTorch loses them, ``lse - sum p z`` more than ``sum p log p``."""
    leads = torch.linspace(8, 60, 40)
    tail = (2 * torch.randn(40, 9000, generator=rng) * 256).round() / 256
    logits = tail - leads.round()[:, None] - 8.0 + offset
    logits[:, 4321] = offset
    exact = exact_entropy(logits)
    entropy = ours(logits, torch.full((40,), 4321)).entropy.double()
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


# ---------------------------------------------------------------- repeatability


def through_backend(backend: Backend, logits: Tensor, target: Tensor, grads: Tensor) -> list[Tensor]:
    """Everything it computes, [K, N] each, and a gradient [N, V]; the logits' reverse is the reference."""
    options = {"vocab_start": 0, "inv_temperature": 1.25}
    reference = logits.flip(1)
    partial = backend.logits_stats(logits, target, moments=True, **options)
    other = backend.logits_stats(reference, target, moments=False, **options)
    kl = backend.kl_partial(logits, reference, partial, other, inv_temperature=1.25)
    stats = backend.stats_combine([partial], inv_temperature=1.25)
    given = {"grad_log_prob_N": grads[0], "grad_entropy_N": grads[1]}
    divergence = Divergence(reference, kl[:2], grads[2])
    dz = backend.logits_stats_backward(logits, target, stats, divergence=divergence, **given, **options)
    ranks = backend.count_above(logits, grads[0])[None]
    return [partial, stats, kl, backend.top_logits(logits), ranks, dz]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_threads_calls_or_alignment(
    rng: torch.Generator, level: str, dtype: torch.dtype, threads: None
) -> None:
    logits, target, _ = random_case(rng, 37, 5003, dtype)
    grads, backend = torch.randn(3, 37, generator=rng), get_backend("cpu")
    torch.set_num_threads(1)
    whole = through_backend(backend, logits, target, grads)
    torch.set_num_threads(2)
    assert all(map(torch.equal, through_backend(backend, logits, target, grads), whole))
    rows = [
        through_backend(backend, logits[i : i + 5], target[i : i + 5], grads[:, i : i + 5])
        for i in range(0, 37, 5)
    ]
    for number, dim in enumerate((1, 1, 1, 1, 1, 0)):
        assert torch.equal(torch.cat([row[number] for row in rows], dim), whole[number])
    for shift in (1, 3, 15):
        wide = torch.full((37, 5003 + shift), 99.0, dtype=dtype)
        wide[:, shift:] = logits
        assert all(map(torch.equal, through_backend(backend, wide[:, shift:], target, grads), whole))


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_agree(
    rng: torch.Generator, monkeypatch: pytest.MonkeyPatch, level: str, dtype: torch.dtype
) -> None:
    """To the bit where both have a fused multiply-add, to a few roundings otherwise."""
    logits, target, _ = random_case(rng, 20, 5003, dtype)
    grads, backend = torch.randn(3, 20, generator=rng), get_backend("cpu")
    found = through_backend(backend, logits, target, grads)
    monkeypatch.setenv("MEGAENT_OPS_SIMD", LEVELS[-1])
    for mine, highest in zip(found, through_backend(backend, logits, target, grads), strict=True):
        if level == LEVELS[-1] or level != "scalar":
            assert torch.equal(mine, highest)
        else:
            eps = 2**-7 if mine.dtype == torch.bfloat16 else 2**-20
            torch.testing.assert_close(mine, highest, rtol=eps, atol=1e-7)


# ---------------------------------------------------------------- shards, padding, memory


@pytest.mark.parametrize("widths", [[50, 50], [3, 97], [40, 59, 1], [0, 60, 40], [60, 40, 0]])
def test_shards_give_what_the_whole_gives(rng: torch.Generator, level: str, widths: list[int]) -> None:
    logits, target, _ = random_case(rng, 64, 100)
    logits[3, : widths[0]] = -torch.inf  # a shard without any mass in this row
    logits[5] = -300.0  # equal maxima in every shard
    logits[6] = logits[6] * 40  # peaked
    target[3] = int(logits[3].argmax())
    backend = get_backend("cpu")
    partials, start = [], 0
    for shard in logits.split(widths, dim=1):
        partials.append(
            backend.logits_stats(shard, target, vocab_start=start, inv_temperature=1.25, moments=True)
        )
        start += shard.shape[1]
    stats = backend.stats_combine(partials, inv_temperature=1.25)
    exact = textbook(logits.double(), target, temperature=0.8)
    for row, true in ((0, exact.log_prob), (1, exact.entropy), (4, exact.sum_p2), (5, exact.varentropy)):
        torch.testing.assert_close(stats[row].double(), true, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(
        stats, reference.stats_combine(partials, inv_temperature=1.25), rtol=2e-6, atol=2e-6
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_writing_over_the_logits_changes_no_bit(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits, target, cotangents = random_case(rng, 20, 130, dtype)
    target[target >= 97], target[3] = 0, -100
    options: dict[str, Any] = {"vocab_size": 97, "ignore_index": -100}
    _, (dz,) = gradients(lambda z: ours(z, target, **options), logits, cotangents=cotangents)
    leaf = logits.clone().requires_grad_()
    made = leaf * 1.0  # what a model would hand over
    values = ours(made, target, overwrite_logits=True, **options)[:2]
    weights = [c.float() for c in cotangents]
    (found,) = torch.autograd.grad(values, made, weights, retain_graph=True)
    assert torch.equal(found, dz)
    assert found.data_ptr() == made.data_ptr()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(values, made, weights)


def test_only_a_few_numbers_a_token_are_kept(rng: torch.Generator) -> None:
    """Beyond logits and gradient at most 64 bytes a token are allocated, whatever the vocabulary."""
    logits, target, _ = random_case(rng, 4096, 300)
    backend = get_backend("cpu")
    with torch.profiler.profile(profile_memory=True) as profile:
        partial = backend.logits_stats(logits, target, vocab_start=0, inv_temperature=1.0, moments=False)
        backend.stats_combine([partial], inv_temperature=1.0)
    events = [event for event in profile.events() if event.name.startswith("megaent::")]
    assert [event.name for event in events] == ["megaent::logits_stats", "megaent::stats_combine"]
    assert 0 < sum(event.cpu_memory_usage for event in events) <= 64 * 4096


# ---------------------------------------------------------------- which backend, and what is refused


def test_tensors_of_the_cpu_take_cpu_and_what_it_does_not_serve_takes_reference() -> None:
    for dtype, name in ((torch.float32, "cpu"), (torch.bfloat16, "cpu"), (torch.float64, "reference")):
        assert getattr(get_backend(None, "cpu", dtype), "__name__") == f"megaent.ops.{name}"  # noqa: B009
    assert get_backend(None, "cuda", torch.float32) is reference


def test_the_environment_names_a_backend_and_the_argument_goes_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEGAENT_OPS_BACKEND", "reference")
    assert get_backend() is reference
    assert get_backend("cpu") is not reference
    monkeypatch.setenv("MEGAENT_OPS_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"one of reference, cpu, triton, got 'fast'"):
        get_backend()


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float64), ("cpu", torch.float16), ("cuda", torch.float32)]
)
def test_a_named_backend_that_cannot_serve_is_an_error(device: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"got {dtype} on {device}; name reference, or none"):
        get_backend("cpu", device, dtype)


def test_the_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    from megaent.ops import backend

    backend._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="megaent.ops.backend"):
        for _ in range(3):
            ours(torch.zeros(1, 2), torch.tensor([0]))
    assert caplog.messages == ["megaent.ops backend: cpu"]


@pytest.mark.parametrize("name", sorted({"avx2", "avx512", "AVX2", "sse"} - set(LEVELS)))
def test_a_level_this_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MEGAENT_OPS_SIMD", name)
    with pytest.raises(RuntimeError, match=f"MEGAENT_OPS_SIMD must be unset or .*scalar.*, got '{name}'"):
        ours(torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(4, 5).double()}, "logits must be Float or BFloat16, got Double"),
        ({"logits": torch.zeros(5, 4).T}, "logits must have rows of adjacent entries"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"target must have shape \[4\], got \[3\]"),
        ({"stats": torch.zeros(3, 4)}, r"stats must have shape \[4 or more, 4\], got \[3, 4\]"),
        ({"grad": torch.zeros(4).double()}, "grad_log_prob must be Float, got Double"),
        ({"out": torch.zeros(4, 6)}, r"out must have shape \[4, 5\], got \[4, 6\]"),
        ({"out": torch.zeros(4, 5).bfloat16()}, "out must be Float, got BFloat16"),
    ],
)
def test_bad_tensors_are_refused_with_what_came(change: dict[str, Tensor], message: str) -> None:
    get_backend("cpu")
    given = {
        "logits": torch.zeros(4, 5),
        "target": torch.zeros(4, dtype=torch.int64),
        "stats": torch.zeros(4, 4),
        "grad": torch.zeros(4),
        "out": torch.zeros(4, 5),
    } | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.megaent.logits_stats_backward(
            given["logits"],
            given["target"],
            given["stats"],
            given["grad"],
            *(None,) * 4,
            0,
            1.0,
            out=given["out"],
        )
