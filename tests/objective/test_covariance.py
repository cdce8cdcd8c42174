"""KL-Cov's and Clip-Cov's choices against numpy, and however the batch is split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.golden_inputs import experience
from support.golden_inputs import tokens as tokens_of
from support.old_tokens import a_batch, assert_same_on_replicas, in_minibatch, old_tokens, seen_by

from megaent.objective.covariance import DropFromBand, HighestCovariance, covariance


def test_the_covariance_is_numpy_s() -> None:
    tokens = old_tokens(a_batch())
    found = covariance(tokens)
    for minibatch in (0, 1):
        where = in_minibatch(tokens, minibatch)
        a, p = tokens.advantage[where].double().numpy(), tokens.log_prob[where].double().numpy()
        np.testing.assert_allclose(found[where], (a - a.mean()) * (p - p.mean()), rtol=1e-5, atol=1e-6)
        assert float(found[where].double().mean()) == pytest.approx(np.cov(a, p, bias=True)[0, 1], abs=1e-6)


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.34, 1.0])
def test_the_highest_are_chosen_in_each_minibatch(fraction: float) -> None:
    tokens = old_tokens(a_batch())
    coef = HighestCovariance(coef=0.7, fraction=fraction)(tokens, None)
    value = covariance(tokens)
    for minibatch in (0, 1):
        where = in_minibatch(tokens, minibatch)
        count = max(1, int(int(where.sum()) * fraction))
        chosen = set(value[where].topk(count).indices.tolist())
        assert set(coef[where].nonzero()[:, 0].tolist()) == chosen
    assert bool((coef[~tokens.counted()] == 0).all())
    assert coef.unique().tolist() in ([0.0, pytest.approx(0.7)], [pytest.approx(0.7)])


@pytest.mark.parametrize("seed", range(5))
def test_dropped_tokens_are_candidates_and_as_many_as_said(seed: int) -> None:
    noise = torch.Generator().manual_seed(seed)
    batch = experience([400], log_prob_old=2 * torch.randn(400, generator=noise).double() - 3)
    tokens = tokens_of(batch, torch.randn(400, generator=noise).double())
    rule = DropFromBand(low=0.5, high=3.0, fraction=0.05)
    value = covariance(tokens)
    candidates = (value > 0.5) & (value < 3.0)
    assert torch.equal(rule.candidates(tokens), candidates)
    dropped = rule(tokens, None) == 0
    assert int(dropped.sum()) == min(20, int(candidates.sum()))
    assert not bool((dropped & ~candidates).any())
    everyone = DropFromBand(low=0.5, high=3.0, fraction=1.0)(tokens, None) == 0
    assert torch.equal(everyone, candidates)


def test_tokens_that_the_clip_holds_are_no_candidates() -> None:
    log_prob = torch.tensor([-0.1, -0.1, -4.0, -4.0], dtype=torch.float64)
    ratio = torch.tensor([0.3, 0.1, -0.3, -0.1], dtype=torch.float64)  # logs of the ratio
    batch = experience([4], log_prob_old=log_prob - ratio)
    tokens = tokens_of(batch, [2.0, 2.0, -2.0, -2.0], log_prob)
    rule = DropFromBand(low=1.0, high=5.0, clip_low=0.2, clip_high=0.2, scope="micro")
    assert rule.candidates(tokens).tolist() == [False, True, False, True]
    loose = replace(rule, clip_low=1.0, clip_high=1.0)
    assert loose.candidates(tokens).tolist() == [True] * 4


def test_the_draw_is_another_one_in_another_step_and_every_candidate_s_turn_comes() -> None:
    batch = experience([200], log_prob_old=[-0.05, -4.0] * 100)
    tokens = tokens_of(batch, [2.0, -2.0] * 100)
    rule = DropFromBand(fraction=0.1)
    draws = [rule(tokens, replace(seen_by(batch), progress=step / 100)) == 0 for step in range(100)]
    assert all(int(draw.sum()) == 20 for draw in draws)
    assert not torch.equal(draws[0], draws[1])
    times = torch.stack(draws).sum(0)  # each token: 100 tries at 0.1
    assert int(times.min()) > 0
    assert int(times.max()) < 25


RULES = [HighestCovariance(fraction=0.1), DropFromBand(low=-0.05, high=0.2, fraction=0.1)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_replicas_choose_what_one_chooses(rule: HighestCovariance | DropFromBand) -> None:
    batch = a_batch()
    assert 0 < int((rule(old_tokens(batch), seen_by(batch)) == 0).sum()) < batch.num_tokens
    assert_same_on_replicas(rule)


def test_no_tokens_no_choice() -> None:
    batch = experience([])
    for rule in RULES:
        assert rule(tokens_of(batch), None).tolist() == []
    nothing = replace(a_batch(), mask=torch.zeros(a_batch().num_tokens, dtype=torch.bool))
    assert RULES[0](old_tokens(nothing), None).tolist() == [0.0] * nothing.num_tokens
    assert RULES[1](old_tokens(nothing), None).tolist() == [1.0] * nothing.num_tokens


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HighestCovariance(fraction=20), r"fraction must lie in \(0, 1\] \(0.2 % is 2e-3\), got 20"),
        (lambda: HighestCovariance(scope="macro"), "scope must be one of mini, micro, got 'macro'"),
        (lambda: HighestCovariance(coef=-1.0), "coef must be 0 or more, got -1.0"),
        (lambda: DropFromBand(low=5.0, high=1.0), "cov_low must be below cov_high = 1.0, got 5.0"),
        (lambda: DropFromBand(fraction=0.0), "fraction must lie in"),
    ],
)
def test_a_bad_option_is_refused_by_name(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
