"""STARE's weights: how they move, and whom they choose."""

from __future__ import annotations

import math

import pytest
import torch
from support.batches import applied, minibatches, random_groups, scored_batch
from support.choices import methods_of

from megaent.objective.surprisal import SurprisalWeights


def test_weights_by_surprisal_move_with_the_entropy() -> None:
    weights = SurprisalWeights(amplify=1.4, attenuate=0.6, target=0.5, step=0.1, amplify_max=1.5)
    state = weights.start()
    found = []
    for entropy in (0.4, 0.4, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6):
        state = weights.update(state, {"stare/entropy": entropy})
        found.append((state["amplify"], state["attenuate"]))
    up = [(1.5, 0.5), (1.5, 0.5), (1.5, 0.5)]
    down = [(1.4, 0.6), (1.3, 0.7), (1.2, 0.8), (1.1, 0.9), (1.0, 1.0), (1.0, 1.0)]
    assert found == [pytest.approx(pair) for pair in up + down]


def test_one_side_stays_alone_while_its_weight_moves() -> None:
    weights = SurprisalWeights(attenuate=1.0, step=0.2)
    assert weights.moved(1.1, 1.0, 0.0) == (pytest.approx(1.3), 1.0)


def test_a_step_is_weighed_by_the_weights_that_its_own_entropy_moved() -> None:
    ((schedule, method),) = methods_of({"stare": {"target": 5.0, "step": 0.2, "max_batches": 0}})
    terms, _ = applied(method, schedule, scored_batch(random_groups(0)))
    assert terms.policy_weight.unique().tolist() == pytest.approx([1.0, 1.3])


@pytest.mark.parametrize("attenuate", [1.0, 0.5])
def test_the_most_surprising_of_each_minibatch_and_side_are_chosen(attenuate: float) -> None:
    options = {"fraction": 0.3, "amplify": 2.0, "attenuate": attenuate, "target": 5.0, "max_batches": 0}
    ((schedule, method),) = methods_of({"stare": options})
    batch = scored_batch(random_groups(2))
    assert batch.log_prob_old is not None
    terms, _ = applied(method, schedule, batch, num_minibatches=2)
    expected = torch.ones_like(terms.policy_weight)
    minibatch = minibatches(batch, 2)[batch.owner]
    for number in range(2):
        for sign, weight in ((1, 2.0), (-1, attenuate)):
            places = [
                t for t in range(batch.num_tokens) if minibatch[t] == number and sign * terms.advantage[t] > 0
            ]
            places.sort(key=lambda t: (float(batch.log_prob_old[t]), int(terms.order[t])))
            expected[places[: math.ceil(0.3 * len(places) - 1e-6)]] = weight
    assert torch.equal(terms.policy_weight, expected)


def test_nothing_is_weighed_at_the_target_or_above() -> None:
    batch = scored_batch(random_groups(2))
    assert batch.entropy is not None
    mean = batch.entropy.double().mean().item()
    for target, is_weighed in ((mean + 1e-6, True), (mean - 1e-6, False)):
        ((schedule, method),) = methods_of({"stare": {"target": target, "max_batches": 0}})
        terms, told = applied(method, schedule, batch, num_minibatches=2)
        assert bool((terms.policy_weight != 1).any()) == is_weighed
        assert told["stare/entropy"] == pytest.approx(mean, rel=1e-6)
