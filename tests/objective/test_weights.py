"""Weights of the policy term against their formulas, and however the batch is split."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.golden_inputs import experience
from support.golden_inputs import tokens as tokens_of
from support.old_tokens import a_batch, assert_same_on_replicas, in_minibatch, old_tokens, seen_by

from megaent.objective.method import TokenRule
from megaent.objective.seen import Tokens
from megaent.objective.weights import EngineMismatch, EntropyChange, HighEntropyOnly, PositiveWeight

RULES = [
    HighEntropyOnly(),
    EntropyChange(),
    EntropyChange(form="linear"),
    PositiveWeight(),
    EngineMismatch(limit=1.005),
    EngineMismatch(level="sequence", mode="mask", limit=1.01),
]
every_rule = pytest.mark.parametrize("rule", RULES, ids=repr)


def random_tokens(seed: int, size: int = 300, spread: float = 1.0) -> Tokens:
    noise = torch.Generator().manual_seed(seed)
    log_prob, moved, advantage = torch.randn(3, size, generator=noise, dtype=torch.float64)
    entropy = torch.rand(size, generator=noise, dtype=torch.float64)
    old = -log_prob.abs()
    batch = experience([size], log_prob_old=old, entropy=entropy)
    return tokens_of(batch, advantage, (old + 0.1 * spread * moved).clamp(max=-1e-4))


# ---------------------------------------------------------------- forking tokens


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 1.0])
def test_the_tokens_of_highest_entropy_teach(fraction: float) -> None:
    tokens = old_tokens(a_batch())
    weight = HighEntropyOnly(fraction=fraction)(tokens, None)
    for minibatch in (0, 1):
        where = in_minibatch(tokens, minibatch)
        entropy = tokens.entropy[where].double()
        assert torch.equal(weight[where], (entropy >= entropy.quantile(1 - fraction)).float())
    if fraction == 1.0:
        assert bool((weight[tokens.counted()] == 1).all())


# ---------------------------------------------------------------- STEER


def change_by_definition(tokens: Tokens, n: int) -> float:
    p, old = math.exp(float(tokens.log_prob[n])), math.exp(float(tokens.log_prob_old[n]))
    a, h = float(tokens.advantage[n]), float(tokens.entropy[n])
    return abs(a / old * p * (1 - p) * (math.log(p) + h))


def test_the_change_is_its_formula() -> None:
    tokens = random_tokens(0)
    expected = [change_by_definition(tokens, n) for n in range(300)]
    assert EntropyChange().omega(tokens).tolist() == pytest.approx(expected, rel=1e-9)


def test_the_change_is_the_derivative_of_the_entropy() -> None:
    """Of a softmax under a step on the logits along A grad log p, kept to the sampled token's logit."""
    logits = torch.tensor([0.3, -0.5, 1.2, 0.0], dtype=torch.float64, requires_grad=True)
    entropy = -(logits.softmax(0) * logits.log_softmax(0)).sum()
    (slope,) = torch.autograd.grad(entropy, logits)
    log_p = logits.detach().log_softmax(0)
    for token, advantage in ((0, 1.0), (2, -2.0)):
        batch = experience([1], log_prob_old=[float(log_p[token])], entropy=[entropy.item()])
        found = float(EntropyChange().omega(tokens_of(batch, [advantage]))[0])
        step = advantage * (1 - float(log_p[token].exp()))  # of the sampled token's own logit
        own_share = abs(float(slope[token]) * step)
        assert found * float(log_p[token].exp()) == pytest.approx(own_share, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("w_min", [0.5, 0.8, 1.0])
def test_weights_lie_between_w_min_and_1_and_fall_with_the_change(seed: int, w_min: float) -> None:
    tokens = random_tokens(seed, spread=10.0)
    rule = EntropyChange(w_min=w_min, scope="micro")
    weight, omega = rule(tokens, None), rule.omega(tokens)
    assert float(weight.min()) >= w_min
    assert float(weight.max()) <= 1.0
    assert bool((weight[omega.argsort()].diff() <= 1e-12).all())
    assert float(weight[omega.argmax()]) == pytest.approx(w_min, rel=1e-12)
    linear = EntropyChange(form="linear", scope="micro")(tokens, None)
    assert float(linear[omega.argmax()]) == pytest.approx(0.8, abs=1e-12)
    assert float(linear[omega.argmin()]) == pytest.approx(1.2, abs=1e-12)


def test_small_changes_keep_their_weight() -> None:
    """Below 0.02 the largest change does not set the scale."""
    batch = experience([2], log_prob_old=[-1.0, -1.0], entropy=[1.0, 1.001])
    tokens = tokens_of(batch, [1.0, 1.0])
    weight = EntropyChange(w_min=0.8)(tokens, None)
    omega = float(EntropyChange().omega(tokens)[1])
    assert weight.tolist() == pytest.approx([1.0, 0.8 ** (omega / 0.02)], rel=1e-12)
    equal = EntropyChange(form="linear")(tokens_of(experience([3])), None)
    assert equal.tolist() == [1.2] * 3


# ---------------------------------------------------------------- engine mismatch, positive weight


def test_the_mismatch_is_truncated_or_masked() -> None:
    batch = experience([3], log_prob_old=[-1.0, -1.0, -1.0], log_prob_engine=[-1.1, -3.0, -0.9])
    tokens = tokens_of(batch)
    expected = [math.exp(0.1), 2.0, math.exp(-0.1)]
    assert EngineMismatch()(tokens, None).tolist() == pytest.approx(expected, rel=1e-12)
    expected[1] = 0.0
    assert EngineMismatch(mode="mask")(tokens, None).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_mismatch_of_a_response_is_the_product_over_its_trained_tokens() -> None:
    batch = experience(
        [2, 3],
        groups=[0, 1],
        log_prob_old=[-1.0, -1.0, -1.0, -1.0, -1.0],
        log_prob_engine=[-1.2, -1.1, -0.9, -7.0, -0.8],
        mask=[1, 1, 1, 0, 1],
    )
    weight = EngineMismatch(level="sequence")(tokens_of(batch), None)
    assert weight.tolist() == pytest.approx([math.exp(0.3)] * 2 + [math.exp(-0.3)] * 3, rel=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("mode", ["truncate", "mask"])
def test_an_engine_like_the_trainer_weighs_1(level: str, mode: str) -> None:
    batch = experience([3, 4], log_prob_old=[-0.3 * n for n in range(7)])
    assert EngineMismatch(level=level, mode=mode)(tokens_of(batch), None).tolist() == [1.0] * 7


def test_absurd_mismatches_stay_finite() -> None:
    batch = experience([2], log_prob_old=[-1e4, 0.0], log_prob_engine=[0.0, -1e4])
    for mode in ("truncate", "mask"):
        assert bool(EngineMismatch(limit=1e12, mode=mode)(tokens_of(batch), None).isfinite().all())


def test_praise_counts_less() -> None:
    tokens = tokens_of(experience([3]), [2.0, -1.0, 0.0])
    assert PositiveWeight(weight=0.1)(tokens, None).tolist() == [0.1, 1.0, 1.0]


# ---------------------------------------------------------------- all of them


@every_rule
def test_replicas_weigh_as_one(rule: TokenRule) -> None:
    batch = a_batch()
    weight = rule(old_tokens(batch), seen_by(batch))
    assert weight.dtype == torch.float32, "the dtype of the tokens"
    assert len(set(weight.tolist())) > 1
    assert_same_on_replicas(rule)


@every_rule
def test_a_batch_without_trained_tokens_weighs_finitely(rule: TokenRule) -> None:
    batch = replace(a_batch(), mask=torch.zeros(a_batch().num_tokens, dtype=torch.bool))
    assert bool(rule(old_tokens(batch), seen_by(batch)).isfinite().all())
    assert rule(tokens_of(experience([])), seen_by(experience([]))).tolist() == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HighEntropyOnly(fraction=0.0), r"fraction must lie in \(0, 1\], got 0.0"),
        (lambda: EntropyChange(w_min=0.0), r"w_min must lie in \(0, 1\], got 0.0"),
        (lambda: EntropyChange(form="square"), "form must be one of exp, linear, got 'square'"),
        (lambda: EntropyChange(linear_low=2.0), r"linear_low must lie in \[0, linear_high = 1.2\], got 2.0"),
        (lambda: PositiveWeight(weight=-1.0), "weight must be 0 or more, got -1.0"),
        (lambda: EngineMismatch(level="word"), "level must be one of token, sequence, got 'word'"),
        (lambda: EngineMismatch(mode="drop"), "mode must be one of truncate, mask, got 'drop'"),
        (lambda: EngineMismatch(limit=0.0), "limit must be above 0, got 0.0"),
    ],
)
def test_a_bad_option_is_refused_by_name(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
