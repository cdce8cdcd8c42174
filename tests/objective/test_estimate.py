"""``estimate``: a method and a scored batch to one number per token and term."""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import pytest
import torch
from support.builders import group, masked, on_replicas, scored, seen
from torch import Tensor

from megaent.experience.pack import pack
from megaent.objective.advantages import BatchWhitened, GroupRelative
from megaent.objective.aggregations import TokenMean
from megaent.objective.cores import Clipped
from megaent.objective.covariance import HighestCovariance
from megaent.objective.entropy_advantage import EntropyAdvantage
from megaent.objective.estimate import estimate
from megaent.objective.length_rewards import LinearLength
from megaent.objective.method import Loss, Method, Term
from megaent.objective.terms import KL, entropy_bonus
from megaent.objective.weights import EntropyChange, HighEntropyOnly, PositiveWeight
from megaent.types import Experience, Metrics, Replicas, TokenTerms

GROUPS = [group(0, [1, 0, 1], [4, 2, 9]), group(1, [0, 0], [1, 7]), group(2, [1, 0, 0, 0], [3, 3, 1, 12])]
PLAIN = Method(advantage=GroupRelative(), loss=Loss(core=Clipped()), aggregation=TokenMean())
RICH = Method(
    advantage=BatchWhitened(minus_group_mean=True),
    loss=Loss(
        core=Clipped(low=0.1, high=0.3),
        weights=(HighEntropyOnly(fraction=0.5), PositiveWeight(weight=0.5), EntropyChange(scope="micro")),
        terms=(
            *entropy_bonus(0.01),
            Term(name="held", quantity=KL(anchor="old"), coef=HighestCovariance(fraction=0.2)),
            Term(name="later", quantity=KL(anchor="old"), coef=HighestCovariance(scope="micro")),
        ),
    ),
    aggregation=TokenMean(),
    rewards=(LinearLength(coef=0.5, max_length=20),),
    shaping=(EntropyAdvantage(),),
)


def run(batch: Experience, chosen: Method, population: Replicas | None = None) -> tuple[TokenTerms, Metrics]:
    given = {"minibatch_S": (batch.index % 2)[batch.group], "num_minibatches": 2}
    return estimate(chosen, seen(batch, **given, **({"population": population} if population else {})))


def columns(terms: TokenTerms) -> dict[str, Tensor]:
    names = [item.name for item in fields(TokenTerms) if item.name != "coefs"]
    return {name: getattr(terms, name) for name in names} | dict(terms.coefs)


def test_every_token_gets_its_response_s_advantage_and_minibatch() -> None:
    terms, metrics = run(scored(GROUPS), PLAIN)
    half = 1 / 3**0.5  # (1 - 2/3) / std of (1, 0, 1)
    expected = [half] * 4 + [-2 * half] * 2 + [half] * 9 + [0.0] * 8 + [1.5] * 3 + [-0.5] * 16
    assert terms.advantage.tolist() == pytest.approx(expected, abs=1e-5)
    assert terms.minibatch.tolist() == [0] * 15 + [1] * 8 + [0] * 19
    assert terms.weight.tolist() == pytest.approx([1 / 34] * 15 + [1 / 8] * 8 + [1 / 34] * 19)
    assert terms.advantage.dtype == terms.weight.dtype == torch.float32
    assert terms.policy_weight.tolist() == [1.0] * 42
    assert terms.coefs == {}
    assert metrics["advantage/nonzero"] == pytest.approx(7 / 9)
    assert metrics["advantage/mean_abs"] == pytest.approx((4 * half + 3.0) / 9, abs=1e-5)
    assert metrics["reward/shaped"] == pytest.approx(3 / 9)


def test_each_piece_is_applied_once_and_in_its_place() -> None:
    batch = masked(scored(GROUPS), every=3)
    terms, metrics = run(batch, RICH)
    assert batch.entropy is not None
    given = seen(batch, minibatch_S=(batch.index % 2)[batch.group], num_minibatches=2)
    reward = batch.reward - 0.5 * batch.length / 20
    plain = BatchWhitened(minus_group_mean=True)(reward, given)[batch.owner].float()
    advantage = plain + torch.minimum(0.4 * batch.entropy, plain.abs() / 2)
    torch.testing.assert_close(terms.advantage, advantage)
    assert bool((terms.policy_weight[terms.advantage > 0] <= 0.5).all())
    assert set(terms.policy_weight.tolist()) == {0.0, 0.5, 1.0}, "two rules multiply, the third comes later"
    assert terms.clip_low.tolist() == pytest.approx([0.1] * 42)
    assert terms.clip_high.tolist() == pytest.approx([0.3] * 42)
    assert terms.coefs.keys() == {"entropy_bonus", "held"}, "scope micro is taken in the forward pass"
    assert terms.coefs["entropy_bonus"].tolist() == pytest.approx([0.01] * 42)
    assert 0 < int((terms.coefs["held"] > 0).sum()) < 42
    assert metrics["reward/shaped"] == pytest.approx(float(reward.mean()))


@pytest.mark.parametrize("chosen", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_two_replicas_estimate_as_one(chosen: Method, cut: int) -> None:
    whole, metrics = run(masked(scored(GROUPS), every=3), chosen)
    parts = on_replicas(
        lambda b, p: run(b, chosen, p), [masked(scored(g), every=3) for g in (GROUPS[:cut], GROUPS[cut:])]
    )
    for name, expected in columns(whole).items():
        joined = torch.cat([columns(terms)[name] for terms, _ in parts])
        assert torch.equal(joined, expected), name
    for _, found in parts:
        assert found == metrics


def test_nothing_is_changed_in_place() -> None:
    batch = scored(GROUPS)
    before = copy.deepcopy(batch)
    run(batch, RICH)
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            assert torch.equal(value, getattr(before, item.name)), item.name


def test_a_batch_in_double_precision_keeps_it() -> None:
    batch = scored(GROUPS)
    assert batch.log_prob_old is not None
    assert batch.entropy is not None
    terms, _ = run(
        replace(batch, log_prob_old=batch.log_prob_old.double(), entropy=batch.entropy.double()), RICH
    )
    kept = {name: value.dtype for name, value in columns(terms).items() if value.is_floating_point()}
    assert set(kept.values()) == {torch.float64}


def test_a_batch_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="call score first"):
        run(pack(GROUPS), PLAIN)


def test_an_empty_batch_gives_empty_terms() -> None:
    terms, metrics = run(scored([]), RICH)
    assert all(value.tolist() == [] for value in columns(terms).values())
    assert set(metrics.values()) == {0.0}
