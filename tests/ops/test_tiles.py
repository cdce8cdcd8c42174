"""Statistics of tiles of columns merge to those of all columns, whatever the tiles hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from megaent.ops import logprob_entropy
from megaent.ops.token_statistics import (
    EXTRAS,
    combine_shards,
    merge_tiles,
    rounded_partial,
    shard_of,
    shard_partial,
)

COLUMNS = 64
WIDTHS = ((64,), (1, 63), (16, 16, 16, 16), (3, 29, 1, 31), (1,) * 64)
FIELDS = ("log_prob", "entropy", "sum_p2", "varentropy", "top8_mass", "kl")


def case(rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, the reference's and targets; some rows lack columns, one ties, one is NaN."""
    logits = 3 * torch.randn(12, COLUMNS, generator=rng)
    reference = logits + 0.3 * torch.randn(12, COLUMNS, generator=rng)
    target = torch.randint(40, 64, (12,), generator=rng)
    logits[0, :32] = -torch.inf  # whole tiles without probability under the policy
    logits[1, 8:] = -torch.inf
    target[1] = 3
    logits[2, [0, 20, 63]] = 50.0  # the largest, in several tiles
    logits[3, :16] = reference[3, :16] = -torch.inf
    logits[4] -= 200.0
    logits[5, 7] = torch.nan
    logits[6, 50] = 300.0
    return logits, reference, target


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_any_tiles_give_what_whole_rows_give(
    rng: torch.Generator, backend: str, widths: tuple[int, ...], temperature: float
) -> None:
    logits, reference, target = case(rng)
    options: dict[str, Any] = {
        "temperature": temperature,
        "vocab_start": 0,
        "vocab_size": COLUMNS,
        "ignore_index": None,
        "group": None,
        "extras": EXTRAS,
        "has_reference": True,
        "nucleus_p": None,
        "backend": backend,
    }
    shard = shard_of(logits, target, COLUMNS, **options)
    merged, start = None, 0
    for width in widths:
        columns = slice(start, start + width)
        partial = shard_partial(
            logits[:, columns].contiguous(), reference[:, columns].contiguous(), target, shard.tile(columns)
        )
        merged, start = merge_tiles(merged, partial, shard), start + width
    assert merged is not None
    whole = combine_shards(rounded_partial(merged, shard, torch.float32), shard)
    exact = logprob_entropy(
        logits.double(),
        target,
        temperature=temperature,
        extras=EXTRAS,
        reference_logits=reference.double(),
        backend="reference",
    )
    assert whole.kl_stats is not None
    found = (*whole.stats[:2], *whole.stats[4:6], whole.top_mass_N, whole.kl_stats[0])
    for name, mine in zip(FIELDS, found, strict=True):
        assert mine is not None
        torch.testing.assert_close(
            mine.double(),
            getattr(exact, name),
            rtol=2e-6,
            atol=2e-6,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_two_policies_without_a_common_tile(rng: torch.Generator) -> None:
    """Where the policy has no mass in a shard at all, only the log of the reference's mass is told."""
    logits = torch.full((2, 8), -torch.inf)
    reference = torch.randn(2, 8, generator=rng)
    target = torch.zeros(2, dtype=torch.int64)
    shard = shard_of(
        logits,
        target,
        8,
        temperature=1.0,
        vocab_start=0,
        vocab_size=8,
        ignore_index=None,
        group=None,
        extras=(),
        has_reference=True,
        nucleus_p=None,
        backend="reference",
    )
    merged = None
    for start in (0, 4):
        columns = slice(start, start + 4)
        partial = shard_partial(logits[:, columns], reference[:, columns], target, shard.tile(columns))
        merged = merge_tiles(merged, partial, shard)
    assert merged is not None
    _, kl, _ = shard.split(rounded_partial(merged, shard, torch.float32))
    torch.testing.assert_close(kl[1] + kl[2], reference.logsumexp(1), rtol=1e-6, atol=0)
    assert bool((kl[0] == 0).all())
