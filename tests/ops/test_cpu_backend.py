"""What the C++ row operations promise beyond the numbers of test_numerics.py: bits, memory, refusals."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.bad_tensors import given, refusals
from support.levels import LEVELS
from support.rows import random_case
from support.truth import gradients, textbook
from torch import Tensor

from megaent.ops import TokenStatistics, logprob_entropy, reference
from megaent.ops.backend import Backend, available_backends, get_backend
from megaent.ops.divergence import Divergence

pytestmark = pytest.mark.skipif(
    "cpu" not in available_backends(), reason="the C++ ops are not built; run `./scripts/build_ops`"
)

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


def ours(logits: Tensor, target: Tensor, **options: Any) -> TokenStatistics:
    return logprob_entropy(logits, target, backend="cpu", **options)


# ---------------------------------------------------------------- what is not a number


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


# ---------------------------------------------------------------- repeatability


def through_backend(backend: Backend, logits: Tensor, target: Tensor, grads: Tensor) -> list[Tensor]:
    """Everything it computes, [K, N] each; then gradients [N, V] without and with a reference."""
    options = {"vocab_start": 0, "inv_temperature": 1.25}
    reference = logits.flip(1)  # far away: KL is some 15 nats
    partial = backend.logits_stats(logits, target, moments=True, **options)
    other = backend.logits_stats(reference, target, moments=False, **options)
    kl = backend.kl_partial(logits, reference, partial, other, inv_temperature=1.25)
    stats = backend.stats_combine([partial], inv_temperature=1.25)
    given = {"grad_log_prob_N": grads[0], "grad_entropy_N": grads[1]}
    divergence = Divergence(reference, kl[:2], grads[2])
    dz, dz_kl = (
        backend.logits_stats_backward(logits, target, stats, divergence=against, **given, **options)
        for against in (None, divergence)
    )
    ranks = backend.count_above(logits, grads[0])[None]
    return [partial, stats, kl, backend.top_logits(logits), ranks, dz, dz_kl]


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
    for number, dim in enumerate((1, 1, 1, 1, 1, 0, 0)):
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
    # The gradient of KL is p times a difference of numbers around 15.
    allowed = [1e-7] * 6 + [1e-6]
    highest_level = through_backend(backend, logits, target, grads)
    for mine, highest, atol in zip(found, highest_level, allowed, strict=True):
        if level == LEVELS[-1] or level != "scalar":
            assert torch.equal(mine, highest)
        else:
            eps = 2**-7 if mine.dtype == torch.bfloat16 else 2**-20
            torch.testing.assert_close(mine, highest, rtol=eps, atol=atol)


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

    backend.announce.cache_clear()
    with caplog.at_level(logging.INFO, logger="megaent.ops.backend"):
        for _ in range(3):
            ours(torch.zeros(1, 2), torch.tensor([0]))
    assert caplog.messages == ["megaent.ops backend: cpu"]


@pytest.mark.parametrize("name", sorted({"avx2", "avx512", "AVX2", "sse"} - set(LEVELS)))
def test_a_level_this_processor_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MEGAENT_OPS_SIMD", name)
    with pytest.raises(RuntimeError, match=f"MEGAENT_OPS_SIMD must be unset or .*scalar.*, got '{name}'"):
        ours(torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize(("change", "message"), refusals("Float or BFloat16"))
def test_bad_tensors_are_refused_with_what_came(change: dict[str, Tensor], message: str) -> None:
    get_backend("cpu")
    tensors = given(change)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.megaent.logits_stats_backward(
            tensors["logits"],
            tensors["target"],
            tensors["stats"],
            tensors["grad"],
            *(None,) * 4,
            0,
            1.0,
            out=tensors["out"],
        )
