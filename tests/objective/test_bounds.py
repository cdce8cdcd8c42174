"""Tokens of high and low entropy within a response: quantiles, clip bounds and coefficients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.golden_inputs import experience
from support.golden_inputs import tokens as tokens_of
from support.old_tokens import a_batch, assert_same_on_replicas, in_minibatch, old_tokens, seen_by

from megaent.objective.aggregations import TokenMean
from megaent.objective.bounds import EntropyBounds, EntropyCoefficient, is_high_entropy, response_quantile


@pytest.mark.parametrize("q", [0.01, 0.5, 0.8, 0.99])
def test_the_quantile_of_a_response_is_torch_s(q: float) -> None:
    tokens = old_tokens(a_batch())
    found = response_quantile(tokens, tokens.entropy, q)
    for s in range(tokens.num_responses):
        trained = tokens.entropy[tokens.mask & (tokens.owner == s)].double()
        expected = float(trained.quantile(q)) if trained.numel() else 0.0
        assert found[tokens.owner == s].tolist() == pytest.approx([expected] * int((tokens.owner == s).sum()))


def test_bounds_are_wider_above_the_quantile() -> None:
    batch = experience([10], entropy=[0.1 * (n + 1) for n in range(10)])
    low, high = EntropyBounds()(tokens_of(batch))
    assert low.tolist() == high.tolist() == [0.2] * 8 + [0.5] * 2


def test_equal_entropies_are_all_low() -> None:
    tokens = tokens_of(experience([4, 1], entropy=[0.3] * 5))
    assert not bool(is_high_entropy(tokens, 0.8).any())


def test_the_term_is_averaged_over_the_tokens_of_low_entropy_alone() -> None:
    batch = a_batch()
    tokens, given = old_tokens(batch), seen_by(batch)
    coef = EntropyCoefficient(low_entropy=0.5)(tokens, given)
    quantity = torch.cos(batch.token.double())
    weight = TokenMean()(given)
    is_low = ~is_high_entropy(tokens, 0.8)
    for minibatch in (0, 1):
        where = in_minibatch(tokens, minibatch)
        found = (weight * coef * quantity)[where].sum()
        assert float(found) == pytest.approx(0.5 * float(quantity[where & is_low].mean()), rel=1e-6)
    unscaled = EntropyCoefficient(low_entropy=0.5, mean_over="all")(tokens, given)
    assert torch.equal(unscaled, 0.5 * is_low.float())


def test_replicas_find_what_one_finds() -> None:
    assert_same_on_replicas(lambda tokens, seen: EntropyBounds()(tokens)[0])
    assert_same_on_replicas(EntropyCoefficient())


def test_no_tokens_and_no_trained_tokens() -> None:
    none = tokens_of(experience([]))
    assert EntropyBounds()(none)[0].tolist() == EntropyCoefficient()(none, None).tolist() == []
    untrained = replace(a_batch(), mask=torch.zeros(a_batch().num_tokens, dtype=torch.bool))
    assert bool(EntropyCoefficient()(old_tokens(untrained), None).isfinite().all())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: EntropyBounds(quantile=1.0), r"quantile must lie in \(0, 1\), got 1.0"),
        (lambda: EntropyBounds(low_entropy=-0.1), r"clip_low_entropy must lie in \[0, 1\], got -0.1"),
        (lambda: EntropyBounds(high_entropy=2.0), r"clip_high_entropy must lie in \[0, 1\], got 2.0"),
        (lambda: EntropyCoefficient(mean_over="some"), "kl_mean must be one of low, all, got 'some'"),
    ],
)
def test_a_bad_option_is_refused_by_name(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
