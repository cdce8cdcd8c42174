"""The CUDA kernels' own source on this processor: bits, shards, shapes and what is refused."""

from __future__ import annotations

import mmap

import pytest
import torch
from support.bad_tensors import given, refusals
from support.cuda_on_host import (
    DTYPES,
    NUMBERS,
    everything,
    gradient,
    needs_compiler,
    ops,
    partial,
    random_case,
    whole,
)
from support.truth import Statistics, gradients, textbook
from torch import Tensor

pytestmark = [pytest.mark.full, needs_compiler]


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [5003, 70001])
def test_bits_do_not_depend_on_batch_or_alignment(
    rng: torch.Generator, dtype: torch.dtype, vocab: int
) -> None:
    logits, target, cotangents = random_case(rng, 7, vocab, dtype)
    together = everything(logits, target, cotangents)
    rows = [everything(logits[i : i + 3], target[i : i + 3], cotangents[:, i : i + 3]) for i in (0, 3, 6)]
    for number, dim in enumerate((1, 1, 0)):
        assert torch.equal(torch.cat([row[number] for row in rows], dim), together[number])
    for shift, width in ((1, 1), (8, 24), (3, 5)):
        wide = torch.full((7, vocab + width), 99.0, dtype=dtype)
        wide[:, shift : shift + vocab] = logits
        found = everything(wide[:, shift : shift + vocab], target, cotangents)
        assert all(map(torch.equal, found, together))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_order_of_threads(
    rng: torch.Generator, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they would where a barrier is missing."""
    logits, target, cotangents = random_case(rng, 3, 70001, dtype)
    forward = everything(logits, target, cotangents)
    monkeypatch.setenv("MEGAENT_FIBER_ORDER", "backward")
    assert all(map(torch.equal, everything(logits, target, cotangents), forward))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1])
def test_writing_over_the_logits_changes_no_bit(rng: torch.Generator, dtype: torch.dtype, shift: int) -> None:
    wide, target, cotangents = random_case(rng, 3, 9003 + shift, dtype)
    logits = wide[:, shift:]
    target.clamp_(max=9002)
    stats = whole([partial(logits, target)])
    dz = gradient(logits, target, stats, list(cotangents))
    assert torch.equal(gradient(logits, target, stats, list(cotangents), out=logits), dz)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("widths", [[50, 50], [3, 97], [40, 59, 1], [0, 60, 40], [60, 40, 0]])
def test_shards_give_what_the_whole_gives(rng: torch.Generator, widths: list[int]) -> None:
    logits, target, cotangents = random_case(rng, 10, 100)
    logits[3, : widths[0]] = -torch.inf
    logits[5] = -300.0
    logits[6] *= 40
    target[3] = int(logits[3].argmax())
    shards = logits.split(widths, dim=1)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    stats = whole([partial(z, target, 0.8, s) for z, s in zip(shards, starts, strict=True)], 0.8)
    exact = textbook(logits.double(), target, temperature=0.8)
    for name, mine in zip(Statistics._fields, stats[NUMBERS], strict=True):
        torch.testing.assert_close(mine.double(), getattr(exact, name), rtol=2e-6, atol=2e-6)
    parts = [
        gradient(z, target, stats, list(cotangents), 0.8, start=s)
        for z, s in zip(shards, starts, strict=True)
    ]
    _, (dz,) = gradients(
        lambda z: textbook(z, target, temperature=0.8), logits.double(), cotangents=list(cotangents)
    )
    torch.testing.assert_close(torch.cat(parts, 1).double(), dz, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("num_tokens", "vocab"), [(0, 50), (3, 0), (0, 0), (1, 1)])
def test_nothing_is_a_size(num_tokens: int, vocab: int) -> None:
    logits, target = torch.ones(num_tokens, vocab), torch.zeros(num_tokens, dtype=torch.int64)
    part = partial(logits, target)
    assert part.shape == (7, num_tokens)
    assert part[1].tolist() == [float(vocab == 1)] * num_tokens
    assert gradient(logits, target, torch.zeros(4, num_tokens), [None, None]).shape == logits.shape


def test_more_than_2_to_the_31_entries() -> None:
    """Two rows that far apart; what lies between is never touched."""
    distance = 2**31 + 8
    memory = torch.frombuffer(mmap.mmap(-1, 2 * (distance + 1000)), dtype=torch.bfloat16)
    logits = memory.as_strided((2, 1000), (distance, 1))
    logits.copy_(torch.randn(2, 1000))
    target = torch.tensor([3, 999])
    close, cotangents = logits.contiguous(), torch.ones(2, 2)
    expected = everything(close, target, cotangents)
    stats = whole([partial(logits, target)])
    assert torch.equal(stats, expected[1])
    assert torch.equal(gradient(logits, target, stats, list(cotangents), out=logits), expected[2])


@pytest.mark.parametrize(("change", "message"), refusals("Float or BFloat16 or Half"))
def test_bad_tensors_are_refused_with_what_came(change: dict[str, Tensor], message: str) -> None:
    tensors = given(change)
    with pytest.raises(RuntimeError, match=message):
        ops().logits_stats_backward(
            tensors["logits"],
            tensors["target"],
            tensors["stats"],
            tensors["grad"],
            None,
            0,
            1.0,
            out=tensors["out"],
        )


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(RuntimeError, match="partials must hold 1 to 128 tensors, got 129"):
        whole([torch.zeros(5, 1)] * 129)
