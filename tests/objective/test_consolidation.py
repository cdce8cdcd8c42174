"""SENT's choice of tokens against sorting, and its independence of who holds the tokens."""

from __future__ import annotations

import math
import random

import pytest
import torch
from support.builders import group, on_replicas, scored
from support.golden_inputs import experience, seen, tokens

from megaent.methods.sent import sent
from megaent.objective.consolidation import HoldExtremes, HoldLowEntropy, LowEntropyCovariance
from megaent.objective.method import Curriculum
from megaent.objective.seen import batch_tokens


def random_tokens(seed: int):
    rng = random.Random(seed)
    number = rng.randint(1, 60)
    entropy = [rng.choice([0.1, 0.2, rng.random()]) for _ in range(number)]
    advantage = [rng.choice([-1.0, 0.5, rng.gauss(0, 1)]) for _ in range(number)]
    log_prob = [-3 * rng.random() for _ in range(number)]
    mask = [rng.random() < 0.8 for _ in range(number)] if seed % 2 else [True] * number
    batch = experience([number], entropy=entropy, log_prob_old=log_prob, mask=mask)
    return batch, entropy, advantage, log_prob, mask


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("mean_over", ["low", "all"])
def test_low_tokens_and_extreme_covariances_are_those_of_a_sort(seed: int, mean_over: str) -> None:
    batch, entropy, advantage, log_prob, mask = random_tokens(seed)
    counted = [place for place, trained in enumerate(mask) if trained]
    chosen = LowEntropyCovariance(low_frac=0.6, cov_ratio=0.2, mean_over=mean_over)(tokens(batch, advantage))
    low = sorted(counted, key=lambda t: (entropy[t], t))[: max(1, math.floor(0.6 * len(counted)))]
    assert chosen.low.nonzero()[:, 0].tolist() == sorted(low)
    if not low:
        return
    among = low if mean_over == "low" else counted
    mean_p = sum(log_prob[t] for t in among) / len(among)
    mean_a = sum(advantage[t] for t in among) / len(among)
    covariance = {t: (log_prob[t] - mean_p) * (advantage[t] - mean_a) for t in low}
    for place in low:
        assert chosen.covariance[place].item() == pytest.approx(covariance[place], abs=1e-12)
    count = max(1, math.floor(0.2 * len(low)))
    value = chosen.covariance.tolist()
    top = sorted(low, key=lambda t: (-value[t], t))[:count]
    bottom = sorted(low, key=lambda t: (value[t], t))[:count]
    assert chosen.top.nonzero()[:, 0].tolist() == sorted(top)
    assert chosen.bottom.nonzero()[:, 0].tolist() == sorted(bottom)


@pytest.mark.parametrize("seed", range(6))
def test_coefficients_are_0_low_or_high_and_high_lies_within_low(seed: int) -> None:
    batch, _, advantage, _, _ = random_tokens(seed)
    rule = LowEntropyCovariance(cov_ratio=0.1)
    seen_tokens = tokens(batch, advantage)
    chosen = rule(seen_tokens)
    assert bool((chosen.low | ~chosen.top).all())
    paper_N = HoldLowEntropy(tokens=rule)(seen_tokens, seen(batch))
    expected_N = 0.05 * (chosen.low & ~chosen.top).double() + 0.2 * chosen.top.double()
    assert torch.equal(paper_N, expected_N)
    released_N = HoldExtremes(tokens=rule)(seen_tokens, None)
    assert torch.equal(released_N, 0.2 * chosen.top.double() + 0.05 * chosen.bottom.double())


@pytest.mark.parametrize("num_replicas", [2, 4])
def test_the_coefficients_do_not_depend_on_who_holds_the_tokens(num_replicas: int) -> None:
    """With four replicas and three groups one holds nothing."""
    groups = [group(i, [1.0, 0.0], [3 + i, 5]) for i in range(3)]
    rule = HoldLowEntropy(tokens=LowEntropyCovariance(low_frac=0.5, cov_ratio=0.3))

    def by_order(batch, population) -> dict[int, float]:
        whole = seen(batch, population=population)
        made = batch_tokens(whole, (batch.token % 7).double() - 3)
        return dict(zip(made.order.tolist(), rule(made, whole).tolist(), strict=True))

    whole = scored(groups)
    expected = by_order(whole, seen(whole).population)
    shares = on_replicas(by_order, [scored(groups[i::num_replicas]) for i in range(num_replicas)])
    assert {order: coef for share in shares for order, coef in share.items()} == expected
    assert set(expected.values()) == {0.0, 0.05, 0.2}


def test_stages_follow_each_other_and_later_ones_start_afresh() -> None:
    part = sent(stages=3, responses=4, weights="log_prob")
    assert part.curriculum == Curriculum(stages=3, responses=4, weights="log_prob")
    found = [(p.stage, round(p.until, 6), p.reset_reference, p.reset_optimizer) for p in part.phases]
    assert found == [(0, 0.333333, False, False), (1, 0.666667, True, True), (2, 1.0, True, True)]
    assert (sent(stages=1).phases, sent(stages=1).curriculum) == ((), None)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"form": "code"}, "form must be paper or released"),
        ({"low_frac": 20}, "low_frac must lie in"),
        ({"cov_ratio": 0.0}, "cov_ratio must lie in"),
        ({"cov_mean": "batch"}, "cov_mean must be low or all"),
        ({"beta_low": 0.5}, "0 <= beta_low <= beta_high"),
        ({"scope": "batch"}, "scope must be mini or micro"),
        ({"stages": 0}, "stages and responses must be 1 or more"),
        ({"weights": "sum"}, "count, log_prob, mean_log_prob"),
        ({"kl": "k4"}, "kl must be one of"),
        ({"anchor": "new"}, "anchor must be one of"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sent(**options)
