"""The quantities that are looked at and not trained on: top-8 mass, rank of the target, the moments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.truth import textbook
from torch import Tensor

from megaent.ops import TokenStatistics, linear_logprob_entropy, logprob_entropy
from megaent.ops.backend import get_backend
from megaent.ops.reference import top_mass
from megaent.ops.token_statistics import EXTRAS


def random_case(rng: torch.Generator, num_tokens: int, vocab: int) -> tuple[Tensor, Tensor]:
    """Rounded to quarters, so that equal logits are common."""
    logits = (12 * torch.randn(num_tokens, vocab, generator=rng)).round() / 4
    return logits, torch.randint(vocab, (num_tokens,), generator=rng)


def ranks(logits: Tensor, target: Tensor) -> list[int]:
    """By looking at every entry."""
    rows = zip(logits.tolist(), target.tolist(), strict=True)
    return [sum(value > row[y] for value in row) for row, y in rows]


def masses(logits: Tensor, temperature: float = 1.0) -> Tensor:
    p_NV = (logits.double() / temperature).softmax(1)
    return p_NV.sort(1, descending=True).values[:, :8].sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("num_tokens", "vocab"), [(0, 7), (5, 1), (63, 7), (63, 16), (40, 1000), (9, 2049), (3, 32003)]
)
def test_ranks_and_masses_are_those_of_a_full_sort(
    rng: torch.Generator, backend: str, num_tokens: int, vocab: int, dtype: torch.dtype
) -> None:
    logits, target = random_case(rng, num_tokens, vocab)
    logits = logits.to(dtype)
    found = logprob_entropy(
        logits, target, temperature=1.7, extras=("top8_mass", "target_rank"), backend=backend
    )
    assert found.target_rank is not None
    assert found.top8_mass is not None
    assert found.target_rank.dtype == torch.int64
    assert found.target_rank.tolist() == ranks(logits, target)
    torch.testing.assert_close(found.top8_mass.double(), masses(logits, 1.7), rtol=1e-6, atol=0)
    if vocab <= 8:
        assert found.top8_mass.tolist() == pytest.approx([1.0] * num_tokens, rel=1e-6)


def test_equal_logits_share_a_rank_and_each_counts_once_in_the_mass(backend: str) -> None:
    logits = torch.tensor([[3.0] * 12 + [1.0] * 8, [-2.0] * 20])
    found = logprob_entropy(
        logits, torch.tensor([15, 7]), extras=("top8_mass", "target_rank"), backend=backend
    )
    assert found.target_rank is not None
    assert found.top8_mass is not None
    assert found.target_rank.tolist() == [12, 0]
    assert found.top8_mass.tolist() == pytest.approx([8 / (12 + 8 * math.exp(-2)), 8 / 20], 1e-6)


def test_excluded_tokens_rank_last_and_have_no_mass(rng: torch.Generator, backend: str) -> None:
    logits, target = random_case(rng, 4, 3000)
    logits[0, 5:] = -torch.inf  # five are left
    logits[1, :2500] = -torch.inf
    target[:] = torch.tensor([7, 2999, 0, 0])
    logits[2, 0] = -torch.inf
    found = logprob_entropy(logits, target, extras=("top8_mass", "target_rank"), backend=backend)
    assert found.target_rank is not None
    assert found.top8_mass is not None
    assert found.target_rank.tolist() == ranks(logits, target)
    assert found.target_rank[[0, 2]].tolist() == [5, 2999]
    torch.testing.assert_close(found.top8_mass.double(), masses(logits), rtol=1e-6, atol=0)


def test_padded_columns_and_ignored_tokens_do_not_count(rng: torch.Generator, backend: str) -> None:
    logits, target = random_case(rng, 20, 97)
    target[4] = -100
    padded = torch.cat([logits, torch.full((20, 31), 1e9)], dim=1)
    options: dict[str, Any] = {"ignore_index": -100, "extras": EXTRAS, "backend": backend}
    plain = logprob_entropy(logits, target, **options)
    found = logprob_entropy(padded, target, vocab_size=97, **options)
    for name in EXTRAS:
        assert torch.equal(getattr(found, name), getattr(plain, name)), name
        assert float(getattr(found, name)[4]) == 0, name
    assert plain.target_rank is not None
    assert plain.target_rank.tolist() == [
        0 if n == 4 else rank for n, rank in enumerate(ranks(logits, target.clamp(min=0)))
    ]


def test_extras_come_in_any_number_and_order_and_change_nothing(rng: torch.Generator, backend: str) -> None:
    logits, target = random_case(rng, 20, 300)
    leaf = logits.clone().requires_grad_()
    bare = logprob_entropy(leaf, target, backend=backend)
    (dz,) = torch.autograd.grad(bare.entropy.sum() + bare.log_prob.sum(), leaf)
    everything = logprob_entropy(leaf, target, extras=EXTRAS, backend=backend)
    (dz_with,) = torch.autograd.grad(everything.entropy.sum() + everything.log_prob.sum(), leaf)
    assert torch.equal(dz, dz_with)
    for extras in (("target_rank",), ("top8_mass", "varentropy"), ("varentropy", "sum_p2"), EXTRAS[::-1]):
        some = logprob_entropy(leaf, target, extras=extras, backend=backend)
        for name in TokenStatistics._fields:
            value = getattr(some, name)
            if name in (*extras, "log_prob", "entropy"):
                assert torch.equal(value, getattr(everything, name)), name
                assert value.requires_grad == (name not in EXTRAS)
            else:
                assert value is None, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_the_split(rng: torch.Generator, backend: str, dtype: torch.dtype) -> None:
    logits, target = random_case(rng, 37, 1003)
    logits = logits.to(dtype)

    other = logits.flip(1)

    def ours(rows: slice) -> TokenStatistics:
        options: dict[str, Any] = {"extras": EXTRAS, "reference_logits": other[rows], "backend": backend}
        return logprob_entropy(logits[rows], target[rows], **options)

    whole, parts = ours(slice(None)), [ours(slice(i, i + 5)) for i in range(0, 37, 5)]
    for name in (*EXTRAS, "kl"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name)), name


@pytest.mark.parametrize("widths", [[50, 50], [3, 97], [90, 4, 6], [0, 60, 40]])
def test_shards_find_the_largest_of_the_whole(rng: torch.Generator, backend: str, widths: list[int]) -> None:
    logits, target = random_case(rng, 33, 100)
    rows = get_backend(backend)
    options = {"vocab_start": 0, "inv_temperature": 1.0, "moments": False}
    stats = rows.stats_combine([rows.logits_stats(logits, target, **options)], inv_temperature=1.0)
    tops = [rows.top_logits(shard) for shard in logits.split(widths, 1)]
    found = top_mass(tops, stats, inv_temperature=1.0)
    assert torch.equal(found, top_mass([rows.top_logits(logits)], stats, inv_temperature=1.0))
    torch.testing.assert_close(found.double(), masses(logits), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", ["recompute", "store"])
def test_hidden_states_give_what_their_logits_give(rng: torch.Generator, backend: str, mode: str) -> None:
    """Of integers, so that every GEMM is exact and equal logits stay equal."""
    hidden = torch.randint(-2, 3, (33, 6), generator=rng).float()
    weight = torch.randint(-2, 3, (120, 6), generator=rng).float()
    target = torch.randint(100, (33,), generator=rng)
    target[7] = -100
    options: dict[str, Any] = {"extras": EXTRAS, "ignore_index": -100, "vocab_size": 100, "backend": backend}
    found = linear_logprob_entropy(hidden, weight, target, mode=mode, workspace_bytes=5 * 480, **options)
    exact = textbook((hidden @ weight[:100].T).double(), target.clamp(min=0))
    expected = logprob_entropy(hidden @ weight.T, target, **options)
    assert found.target_rank is not None
    assert torch.equal(found.target_rank, expected.target_rank)
    kept = target >= 0
    for name in ("sum_p2", "varentropy"):
        torch.testing.assert_close(
            getattr(found, name)[kept].double(), getattr(exact, name)[kept], rtol=2e-6, atol=2e-6
        )
    assert found.top8_mass is not None
    torch.testing.assert_close(
        found.top8_mass[kept].double(), masses(hidden @ weight[:100].T)[kept], rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("extras", [("rank",), ("sum_p2", "sum_p2")])
def test_an_unknown_extra_is_refused(extras: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"extras must be among .*top8_mass.*each once, got \("):
        logprob_entropy(torch.zeros(1, 2), torch.tensor([0]), extras=extras)
