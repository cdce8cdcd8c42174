"""KL from shards of the vocabulary and from hidden states in chunks; references that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.compare import assert_as_accurate_as_torch
from support.kl_cases import all_three, differentiated, random_case
from support.truth import textbook_kl
from torch import Tensor

from megaent.ops import linear_logprob_entropy, logprob_entropy
from megaent.ops.backend import get_backend
from megaent.ops.divergence import Divergence, kl_combine

# ---------------------------------------------------------------- shards and chunks


@pytest.mark.parametrize("widths", [[50, 50], [3, 97], [40, 59, 1], [0, 60, 40], [60, 40, 0]])
def test_shards_give_what_the_whole_gives(rng: torch.Generator, backend: str, widths: list[int]) -> None:
    logits, reference, target, weights = random_case(rng, 32, 100)
    last = 100 - widths[-1] if widths[-1] else 60
    logits[3, last:] = -torch.inf  # a shard that has no probability under the policy
    logits[4, last:] = reference[4, last:] = -torch.inf  # under neither
    reference[5, last:] = -torch.inf  # under the reference
    logits[6] = reference[6] = 0.0
    logits[7] *= 40
    rows, options = get_backend(backend), {"inv_temperature": 1.25}
    partials, kl_partials, start = [], [], 0
    shards = list(zip(logits.split(widths, 1), reference.split(widths, 1), strict=True))
    for z, ref in shards:
        pair = [rows.logits_stats(x, target, vocab_start=start, moments=False, **options) for x in (z, ref)]
        partials.append(pair[0])
        kl_partials.append(rows.kl_partial(z, ref, *pair, **options))
        start += z.shape[1]
    stats = rows.stats_combine(partials, **options)
    kl_stats = kl_combine(partials, kl_partials, **options)
    exact = textbook_kl(logits.double(), reference.double(), temperature=0.8)
    assert_as_accurate_as_torch(kl_stats[0], exact, textbook_kl(logits, reference, temperature=0.8))
    assert float(kl_stats[0, 6]) == pytest.approx(0, abs=1e-13)
    grads = [
        rows.logits_stats_backward(
            z,
            target,
            stats,
            grad_log_prob_N=None,
            grad_entropy_N=None,
            vocab_start=0,
            divergence=Divergence(ref, kl_stats, weights[2].float()),
            **options,
        )
        for z, ref in shards
    ]
    finite = logits.clamp(min=-1e4).double()  # autograd of 0 log 0 is NaN; -1e4 has no mass either
    _, (dz_exact,) = differentiated(
        lambda z: (textbook_kl(z, reference.clamp(min=-1e4).double(), temperature=0.8),),
        finite,
        weights=weights[2:],
    )
    kept = torch.arange(32) != 5
    torch.testing.assert_close(torch.cat(grads, 1)[kept].double(), dz_exact[kept], rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("mode", ["recompute", "store"])
def test_hidden_states_give_what_their_logits_give(rng: torch.Generator, backend: str, mode: str) -> None:
    """The reference is of another width, and a chunk holds 7 rows of both."""
    width, vocab = 8, 120
    hidden, weight = torch.randn(63, width, generator=rng), torch.randn(vocab, width, generator=rng)
    other_hidden = torch.randn(63, 5, generator=rng)
    other_weight = torch.randn(vocab, 5, generator=rng)
    target = torch.randint(100, (63,), generator=rng)
    target[3], other_hidden[3] = -100, torch.nan
    weights = torch.randn(3, 63, generator=rng, dtype=torch.float64)
    options: dict[str, Any] = {"temperature": 0.8, "ignore_index": -100, "vocab_size": 100}

    def ours(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        found = linear_logprob_entropy(
            h,
            w,
            target,
            reference_hidden=other_hidden,
            reference_weight=other_weight,
            workspace_bytes=7 * 2 * vocab * 4,
            mode=mode,
            backend=backend,
            **options,
        )
        return all_three(found)

    def truth(h: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        reference = (other_hidden @ other_weight.T).to(h.dtype)
        return all_three(logprob_entropy(h @ w.T, target, reference_logits=reference, **options))

    mine, grads = differentiated(ours, hidden, weight, weights=weights)
    exact, grads_exact = differentiated(truth, hidden.double(), weight.double(), weights=weights)
    for found, true in zip((*mine, *grads), (*exact, *grads_exact), strict=True):
        torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=2e-5)


# ---------------------------------------------------------------- what is refused


def test_a_reference_that_does_not_fit_is_refused() -> None:
    logits, target = torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)
    for reference in (torch.zeros(4, 6), torch.zeros(4, 5).double()):
        with pytest.raises(ValueError, match=r"reference_logits must be like logits, \[4, 5\] torch.float32"):
            logprob_entropy(logits, target, reference_logits=reference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_weight": None}, "go together, reference_weight is missing"),
        ({"reference_hidden": None}, "go together, reference_hidden is missing"),
        ({"reference_hidden": torch.zeros(3, 2)}, "as many rows as hidden and weight, 4 and 5, got 3 and 5"),
        ({"reference_weight": torch.zeros(6, 2)}, "4 and 5, got 4 and 6"),
        ({"reference_weight": torch.zeros(5, 3)}, r"with D = 2 as in reference_hidden, got \[5, 3\]"),
        ({"reference_weight": torch.zeros(5, 2).double()}, r"must be torch\.float32 as hidden is, got"),
    ],
)
def test_hidden_states_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"reference_hidden": torch.zeros(4, 2), "reference_weight": torch.zeros(5, 2)} | change
    with pytest.raises(ValueError, match=message):
        linear_logprob_entropy(
            torch.zeros(4, 3), torch.zeros(5, 3), torch.zeros(4, dtype=torch.int64), **given
        )
