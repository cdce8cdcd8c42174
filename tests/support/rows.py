"""Random rows of logits, and what an implementation makes of them against the textbook in fp64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from support.compare import assert_as_accurate_as_torch
from support.truth import gradients, textbook
from torch import Tensor

from megaent.ops import logprob_entropy


def random_case(
    rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Logits, targets, and what log_prob and entropy are weighed with."""
    drawn = torch.float64 if dtype == torch.float64 else torch.float32
    logits = torch.randn(num_tokens, vocab, generator=rng, dtype=drawn).mul_(3).to(dtype)
    target = torch.randint(vocab, (num_tokens,), generator=rng)
    return logits, target, tuple(torch.randn(2, num_tokens, generator=rng, dtype=torch.float64))


def far_apart(rows: Tensor) -> Tensor:
    """The same rows 2^30 entries from each other, in memory of which nothing but the rows is touched."""
    num_rows, num_columns = rows.shape
    storage = torch.UntypedStorage(((num_rows - 1) * 2**30 + num_columns) * rows.itemsize)
    view = torch.empty(0, dtype=rows.dtype).set_(storage, 0, rows.shape, (2**30, 1))
    return view.copy_(rows)


def assert_textbook(
    logits: Tensor,
    target: Tensor,
    cotangents: Sequence[Tensor],
    *,
    backend: str | None = None,
    temperature: float = 1.0,
    rows: Tensor | None = None,
) -> None:
    """Values and gradients of ``logprob_entropy``, with plain PyTorch's error in fp32 as the measure.

    Compared at ``rows`` alone where they are given: the textbook in fp64 takes several times the memory.
    """
    options: dict[str, Any] = {"backend": backend, "temperature": temperature}
    at = slice(None) if rows is None else rows
    logits_K, target_K, cotangents_K = logits[at], target[at], [c[at] for c in cotangents]

    def plain(z: Tensor) -> tuple[Tensor, ...]:
        return textbook(z, target_K, temperature=temperature)

    values, (dz,) = gradients(lambda z: logprob_entropy(z, target, **options), logits, cotangents=cotangents)
    exact, (dz_exact,) = gradients(plain, logits_K.double(), cotangents=cotangents_K)
    same, (dz_same,) = gradients(plain, logits_K.float(), cotangents=cotangents_K)
    for name, mine, true, theirs in zip(("log_prob", "entropy"), values, exact, same, strict=True):
        assert_as_accurate_as_torch(mine[at], true, theirs, name=name)
    assert dz.dtype == logits.dtype
    if logits.dtype == torch.bfloat16:  # rounded once, at the end
        torch.testing.assert_close(dz[at], dz_exact.bfloat16(), rtol=2**-7, atol=1e-7)
    else:
        assert_as_accurate_as_torch(dz[at], dz_exact, dz_same, name="dz")
