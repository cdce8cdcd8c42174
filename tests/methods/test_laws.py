"""What every method keeps to on whole batches: splits, orders, extremes, and its neutral setting."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from support.batches import applied, gradients, minibatches, random_groups, scored_batch
from support.choices import Chosen, every_choice, methods_of
from support.splits import PER_TOKEN, assert_same_on_replicas, groups_for, per_token

from megaent.errors import EngineError
from megaent.experience.pack import pack
from megaent.methods import METHODS, build_method
from megaent.objective.cores import Unclipped
from megaent.objective.method import Schedule
from megaent.types import Experience, Group

CHOICES = every_choice(METHODS)
every = pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES.keys())

# ---------------------------------------------------------------- splits


@every
@pytest.mark.parametrize("num_replicas", [2, 3, 7])
def test_what_a_token_learns_does_not_depend_on_who_holds_it(chosen: Chosen, num_replicas: int) -> None:
    """Seven replicas leave some without a group."""
    for schedule, method in methods_of(chosen):
        assert_same_on_replicas(schedule, method, num_replicas=num_replicas)


@every
def test_a_token_that_is_not_learnt_from_changes_nothing(chosen: Chosen) -> None:
    """Its own log-prob, entropy and engine's log-prob move; no other token's loss or gradient does."""
    for schedule, method in methods_of(chosen):
        batch = scored_batch(groups_for(method, seed=2), schedule)
        mask = batch.position % 5 != 4
        batch = replace(batch, mask=mask)
        terms, _ = applied(method, schedule, batch)
        moved, _ = applied(
            method,
            schedule,
            replace(
                batch,
                log_prob_old=torch.where(mask, batch.log_prob_old, -9.0),
                log_prob_engine=torch.where(mask, batch.log_prob_engine, -7.0),
            ),
        )
        assert bool((terms.weight[~mask] == 0).all())
        for name in PER_TOKEN:
            torch.testing.assert_close(getattr(moved, name)[mask], getattr(terms, name)[mask], msg=name)
        _, by_log_prob, by_entropy = gradients(method, batch, terms)
        assert bool((by_log_prob[~mask] == 0).all())
        assert bool((by_entropy[~mask] == 0).all())


@every
def test_the_order_of_prompts_in_the_batch_does_not_matter(chosen: Chosen) -> None:
    for schedule, method in methods_of(chosen):
        groups = groups_for(method, seed=3)
        first, _ = applied(method, schedule, scored_batch(groups, schedule))
        again, _ = applied(method, schedule, scored_batch(groups[::-1], schedule))
        for name, value in per_token(first).items():
            assert torch.equal(per_token(again)[name], value), name


# ---------------------------------------------------------------- extremes


def extreme_batches(schedule: Schedule) -> dict[str, Experience]:
    def batch(groups: list[Group], **changes: object) -> Experience:
        return replace(scored_batch(groups, schedule), **changes)

    some = random_groups(4)
    usual = batch(some)
    return {
        "nothing": batch([]),
        "all wrong": batch(
            some, reward=torch.zeros_like(usual.reward), correct=torch.zeros_like(usual.correct)
        ),
        "all right": batch(
            some, reward=torch.ones_like(usual.reward), correct=torch.ones_like(usual.correct)
        ),
        "one token": batch([one_token(group) for group in some]),
        "all cut": batch(
            some,
            truncated=torch.ones_like(usual.truncated),
            correct=torch.zeros_like(usual.correct),
            reward=torch.zeros_like(usual.reward),
        ),
        "certain": batch(
            some, log_prob_old=torch.zeros_like(usual.log_prob_old), entropy=torch.zeros_like(usual.entropy)
        ),
        "unlikely": batch(some, log_prob_old=torch.full_like(usual.log_prob_old, -90.0)),
        "nothing learnt": batch(some, mask=torch.zeros_like(usual.mask)),
    }


def one_token(group: Group) -> Group:
    return replace(
        group,
        responses=tuple(
            replace(
                response,
                tokens=response.tokens[:1],
                log_prob=response.log_prob[:1],
                top_tokens=response.top_tokens[:1],
                top_log_prob=response.top_log_prob[:1],
            )
            for response in group.responses
        ),
    )


@every
def test_extreme_batches_give_finite_numbers(chosen: Chosen) -> None:
    for schedule, method in methods_of(chosen):
        for name, batch in extreme_batches(schedule).items():
            terms, metrics = applied(method, schedule, batch, num_minibatches=2)
            assert all(value == value and abs(value) < 1e30 for value in metrics.values()), (name, metrics)
            weighted, by_log_prob, by_entropy = gradients(method, batch, terms)
            for value in (weighted, by_log_prob, by_entropy, terms.advantage, terms.weight):
                assert bool(value.isfinite().all()), name


def test_a_log_prob_that_is_no_number_is_an_error_that_names_the_prompt() -> None:
    group = random_groups(0)[0]
    broken = replace(group.responses[0], log_prob=(float("nan"), *group.responses[0].log_prob[1:]))
    with pytest.raises(EngineError, match=r"'p0' has the log-prob nan at token 0"):
        pack([replace(group, responses=(broken, *group.responses[1:]))])


# ---------------------------------------------------------------- neutral settings


def neutral_settings() -> dict[str, tuple[Chosen, Chosen]]:
    """Of every module that states one: (the method where it does nothing, what it then is)."""
    found = {}
    for name, function in METHODS.items():
        neutral = getattr(sys.modules[function.__module__], "NEUTRAL", None)
        if neutral is not None:
            options, base = neutral
            found[name] = ({name: options}, base)
    return found


@pytest.mark.parametrize("name", neutral_settings())
def test_the_neutral_setting_is_the_base_to_the_bit(name: str) -> None:
    chosen, base = neutral_settings()[name]
    for (schedule, method), (base_schedule, base_method) in zip(
        methods_of(chosen), methods_of(base), strict=True
    ):
        for seed in range(3):
            batch = scored_batch(random_groups(seed), schedule)
            other = batch
            if name == "etr":
                # Its wrong answers pay -1 and right ones 1: the same rewards for the base.
                other = replace(batch, reward=2 * batch.correct.double() - 1)
            terms, _ = applied(method, schedule, batch, num_minibatches=2)
            base_terms, _ = applied(base_method, base_schedule, other, num_minibatches=2)
            assert torch.equal(terms.weight, base_terms.weight)
            found, expected = gradients(method, batch, terms), gradients(base_method, other, base_terms)
            for mine, theirs in zip(found, expected, strict=True):
                assert torch.equal(mine, theirs)


def test_methods_with_a_neutral_setting_are_these() -> None:
    assert set(neutral_settings()) >= {
        "ceeh", "egrc", "ee", "sent", "less", "etr", "dapo", "archer", "forking_tokens", "entropy_advantage",
        "entropy_bonus", "clip_higher", "linear_length",
    }  # fmt: skip


def test_kl_cov_without_its_penalty_is_grpo_unclipped() -> None:
    ((schedule, method),) = methods_of({"kl_cov": {"coef": 0.0}})
    ((_, base),) = methods_of({"grpo": {}})
    unclipped = replace(base, loss=replace(base.loss, core=Unclipped()))
    batch = scored_batch(random_groups(1))
    found = gradients(method, batch, applied(method, schedule, batch)[0])
    expected = gradients(unclipped, batch, applied(unclipped, schedule, batch)[0])
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_truncation_weighs_nothing_where_engine_and_trainer_agree() -> None:
    ((schedule, method),) = methods_of({"tis": {}})
    batch = scored_batch(random_groups(0))
    terms, _ = applied(method, schedule, replace(batch, log_prob_engine=batch.log_prob_old))
    assert bool((terms.policy_weight == 1).all())


def test_minibatches_are_learnt_from_apart() -> None:
    """A batch of two minibatches weighs its tokens as two batches of one would."""
    ((schedule, method),) = methods_of({"grpo": {}})
    groups = random_groups(5)
    batch = scored_batch(groups)
    terms, _ = applied(method, schedule, batch, num_minibatches=2)
    for number in range(2):
        alone = scored_batch([g for g in groups if g.index % 2 == number])
        expected, _ = applied(method, schedule, alone)
        mine = minibatches(batch, 2)[batch.owner] == number
        assert torch.equal(terms.weight[mine], expected.weight)


def test_a_minibatch_without_a_positive_response_takes_no_step_while_compressing() -> None:
    (schedule, compress), (_, explore) = methods_of({"egrc": {}})
    groups = [g for g in random_groups(0) if len(g.responses) > 1]
    batch = scored_batch(groups)
    is_odd_S = (batch.index % 2 == 1)[batch.group]
    batch = replace(batch, correct=batch.correct & ~is_odd_S, reward=torch.where(is_odd_S, 0.0, batch.reward))
    assert bool(batch.correct.any())
    odd_T = is_odd_S[batch.owner]
    terms, _ = applied(compress, schedule, batch, num_minibatches=2)
    assert terms.minibatch[odd_T].unique().tolist() == [-1]
    assert terms.minibatch[~odd_T].unique().tolist() == [0]
    for method in (explore, build_method({"grpo": {}}).phases[0].method):
        terms, _ = applied(method, schedule, batch, num_minibatches=2)
        assert terms.minibatch[odd_T].unique().tolist() == [1]
