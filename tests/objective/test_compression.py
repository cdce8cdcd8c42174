"""EGRC's rewards, its positive-only rule and the split of EE, against the equations."""

from __future__ import annotations

import math
import random

import pytest
import torch
from support.golden_inputs import experience, seen, tokens, view

from megaent.methods.ee import ee
from megaent.methods.egrc import egrc
from megaent.methods.grpo import grpo
from megaent.objective.compose import Part, compose
from megaent.objective.compression import SHAPES, AccurateGroups, FormatAndLength, PositiveOnly, ShortCorrect
from megaent.objective.estimate import estimate
from megaent.objective.method import Loss, Method


def methods(part: Part) -> list[Method]:
    base = grpo().suggests
    assert base is not None
    return [phase.method for phase in compose({"part": part}, base).phases]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.5])
def test_every_shape_falls_from_1_to_the_reward_at_the_limit(shape: str, ratio: float) -> None:
    factor_S = ShortCorrect(max_length=500, reward_at_limit=ratio, shape=shape).factor(
        torch.arange(501, dtype=torch.float64)
    )
    assert factor_S[0].item() == pytest.approx(1.0, abs=1e-12)
    assert factor_S[-1].item() == pytest.approx(ratio, abs=1e-12)
    assert bool((factor_S[1:] < factor_S[:-1]).all())


def test_the_exponent_halves_at_equal_steps() -> None:
    piece = ShortCorrect(max_length=300, reward_at_limit=1 / 8)
    values = piece.factor(torch.tensor([0.0, 100.0, 200.0, 300.0], dtype=torch.float64)).tolist()
    assert values == pytest.approx([1.0, 0.5, 0.25, 0.125], abs=1e-12)
    assert piece.decay == pytest.approx(math.log(2) / 100)


def test_wrong_and_overlong_responses_earn_nothing() -> None:
    batch = experience([10, 10, 20, 21], [1, 0, 1, 1])
    reward_S = ShortCorrect(max_length=20, reward_at_limit=0.25)(batch.reward, seen(batch))
    assert reward_S.tolist() == pytest.approx([0.5, 0.0, 0.25, 0.0])


@pytest.mark.parametrize("seed", range(10))
def test_the_exploring_reward_is_answer_plus_format_minus_excess(seed: int) -> None:
    rng = random.Random(seed)
    number, limit, per = 12, 40, 10
    lengths = [rng.randint(1, 100) for _ in range(number)]
    answer = [rng.randint(0, 1) for _ in range(number)]
    readable = [rng.randint(0, 1) for _ in range(number)]
    batch = experience(lengths, answer, format_ok=readable)
    for in_steps, at_most in [(False, None), (True, None), (False, 0.6)]:
        piece = FormatAndLength(
            max_length=limit, format_weight=0.5, penalty=0.25, per=per, in_steps=in_steps, at_most=at_most
        )
        expected = []
        for length, right, form in zip(lengths, answer, readable, strict=True):
            excess = max(0, length - limit) / per
            cost = 0.25 * (math.floor(excess) if in_steps else excess)
            expected.append(right + 0.5 * form - (cost if at_most is None else min(cost, at_most)))
        assert piece(batch.reward, seen(batch)).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_batch_that_says_nothing_of_the_format_counts_all_as_readable() -> None:
    batch = experience([3, 4], [1, 0])
    assert FormatAndLength()(batch.reward, seen(batch)).tolist() == [2.0, 1.0]


def test_groups_are_accurate_from_the_threshold_on() -> None:
    batch = experience([1] * 9, [1, 0, 1, 0, 0, 1, 0, 1, 1], [0, 0, 1, 1, 1, 2, 2, 2, 3])
    assert AccurateGroups(threshold=0.5)(seen(batch)).tolist() == [True, False, True, True]
    assert AccurateGroups(threshold=2.0)(seen(batch)).tolist() == [False] * 4


def test_only_short_correct_responses_have_a_gradient_while_compressing() -> None:
    for core in ("ppo", "reinforce"):
        compress = methods(egrc(max_length=8, core=core))[0]
        batch = experience([3, 8, 5, 9], [1, 1, 0, 1], log_prob_old=[-1.0] * 25)
        terms, metrics = estimate(compress, seen(batch))
        noise = torch.Generator().manual_seed(0)
        log_prob = -1 + 0.1 * torch.randn(25, generator=noise, dtype=torch.float64)
        policy = view(
            batch, terms.advantage, log_prob,
            policy_weight=terms.policy_weight, clip=(terms.clip_low, terms.clip_high),
        )  # fmt: skip
        loss_N, _ = compress.loss(policy)
        (gradient_N,) = torch.autograd.grad((terms.weight * loss_N).sum(), [policy.log_prob])
        learns_S = torch.zeros(4).index_add(0, batch.owner, (gradient_N != 0).float())
        assert learns_S.tolist() == [3.0, 8.0, 0.0, 0.0]
        assert metrics["egrc/positive_share"] == pytest.approx(11 / 25)
        assert metrics["egrc/empty_minibatches"] == 0.0


def test_before_the_policy_moves_both_cores_have_the_gradient_of_reinforce() -> None:
    """``-weight A`` for every token's log-prob."""
    batch = experience([3, 8, 5, 2], [1, 1, 0, 1], log_prob_old=[-1.0 - 0.1 * t for t in range(18)])
    for core in ("ppo", "reinforce"):
        compress = methods(egrc(max_length=8, core=core))[0]
        terms, _ = estimate(compress, seen(batch))
        bounds = (terms.clip_low, terms.clip_high)
        policy = view(batch, terms.advantage, policy_weight=terms.policy_weight, clip=bounds)
        loss_N, _ = compress.loss(policy)
        (gradient_N,) = torch.autograd.grad((terms.weight * loss_N).sum(), [policy.log_prob])
        torch.testing.assert_close(gradient_N, -terms.weight * terms.advantage, rtol=1e-12, atol=1e-15)
        assert bool((gradient_N != 0).any())


def test_a_minibatch_without_a_positive_response_is_counted() -> None:
    batch = experience([2, 3], [1, 0], [0, 1])
    whole = seen(batch, minibatch_S=torch.tensor([0, 1]), num_minibatches=2)
    made = tokens(batch, [1.0, 1.0, 0.0, 0.0, 0.0])
    made = type(made)(
        **{name: getattr(made, name) for name in made.__dataclass_fields__}
        | {"minibatch": whole.minibatch_S[batch.owner], "num_minibatches": 2}
    )
    assert PositiveOnly()(made, whole).tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert whole.notes.reduce(whole.population)["egrc/empty_minibatches"] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_ee_is_the_compress_phase_where_all_groups_are_accurate_and_the_explore_phase_where_none_is(
    seed: int,
) -> None:
    rng = random.Random(seed)
    owners = [number // 4 for number in range(16)]
    lengths = [rng.randint(1, 20) for _ in owners]
    for accurate in (True, False):
        correct = [1 if number % 4 < (2 if accurate else 1) else 0 for number in range(16)]
        batch = experience(lengths, correct, owners, format_ok=[rng.randint(0, 1) for _ in owners])
        phase = methods(egrc(max_length=15))[0 if accurate else 1]
        (mixed,) = methods(ee(max_length=15))
        found, _ = estimate(mixed, seen(batch))
        expected, _ = estimate(phase, seen(batch))
        for name in ("advantage", "weight", "policy_weight", "clip_low", "clip_high"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_the_phases_have_their_shares_temperatures_and_limits() -> None:
    base = grpo().suggests
    assert base is not None
    schedule = compose({"egrc": egrc(compress_share=0.25, max_length=100)}, base)
    first, second = schedule.phases
    assert (first.name, first.until, first.temperature, first.max_new_tokens) == ("compress", 0.25, 0.6, 100)
    assert (second.name, second.until, second.temperature, second.max_new_tokens) == (
        "explore",
        1.0,
        1.0,
        200,
    )
    assert (first.reset_optimizer, second.reset_optimizer) == (False, True)
    assert [schedule.number_at(step, 8) for step in range(1, 9)] == [0, 0, 1, 1, 1, 1, 1, 1]
    turned = compose({"egrc": egrc(compress_share=0.25, order="explore_first")}, base).phases
    assert [(phase.name, phase.until) for phase in turned] == [("explore", 0.75), ("compress", 1.0)]
    assert isinstance(first.method.loss, Loss)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_length": 0}, "max_length must be 1 token or more"),
        ({"reward_at_limit": 0.0}, "reward_at_limit must lie in"),
        ({"shape": "square"}, "exponent, linear, cosine"),
        ({"core": "gspo"}, "core must be ppo or reinforce"),
        ({"order": "both"}, "compress_first or explore_first"),
        ({"compress_share": 1.5}, "compress_share must lie in"),
        ({"penalty_per": 0}, "penalty_per must be 1 token or more"),
        ({"penalty": -0.25}, "penalty must be 0 or more"),
        ({"penalty_at_most": -1.0}, "penalty_at_most must be 0 or more"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        egrc(**options)
    with pytest.raises(ValueError, match="threshold must be 0 or more"):
        ee(threshold=-0.1)
