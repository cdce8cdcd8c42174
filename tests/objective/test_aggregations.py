"""How tokens share a loss: each rule against its definition, and however the batch is split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.builders import group, masked, on_replicas, scored, seen
from torch import Tensor

from megaent.objective.aggregations import ConstantLength, ResponseMean, TokenMean
from megaent.objective.method import Aggregation
from megaent.types import Alone, Experience, Replicas

RULES = [TokenMean(), ResponseMean(), ConstantLength(length=8)]
GROUPS = [
    group(0, [1, 0, 1], [4, 2, 9]),
    group(1, [0, 1], [1, 7]),
    group(2, [1, 1, 0, 0], [3, 3, 1, 12]),
    group(3, [0, 1], [5, 6]),
]
MINIBATCH_OF_GROUP = [0, 1, 0, -1]  # the last group is in none


def minibatches(batch: Experience) -> Tensor:
    return torch.tensor(MINIBATCH_OF_GROUP)[batch.index][batch.group]


def weights(rule: Aggregation, batch: Experience, population: Replicas | None = None) -> Tensor:
    return rule(
        seen(batch, population=population or Alone(), minibatch_S=minibatches(batch), num_minibatches=2)
    )


def loss_by_definition(rule: Aggregation, batch: Experience, loss_T: np.ndarray, minibatch: int) -> float:
    """One response at a time, as the papers write it."""
    owners, mask = batch.owner.numpy(), batch.mask.numpy()
    rows = [s for s in range(batch.num_responses) if int(minibatches(batch)[s]) == minibatch]
    kept = [loss_T[(owners == s) & mask] for s in rows]
    if isinstance(rule, TokenMean):
        return float(np.concatenate(kept).mean())
    if isinstance(rule, ResponseMean):
        return float(np.mean([values.mean() for values in kept if values.size]))
    return sum(float(values.sum()) for values in kept) / (len(rows) * 8)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("every", [10**6, 2, 3], ids=["whole", "half masked", "third masked"])
def test_the_weighted_sum_is_the_definition(rule: Aggregation, every: int) -> None:
    batch = masked(scored(GROUPS), every=every)
    weight_T = weights(rule, batch)
    loss_T = np.random.default_rng(0).normal(size=batch.num_tokens)
    for minibatch in (0, 1):
        is_in = (minibatches(batch)[batch.owner] == minibatch).numpy()
        found = float((weight_T.numpy() * loss_T)[is_in].sum())
        assert found == pytest.approx(loss_by_definition(rule, batch, loss_T, minibatch), rel=1e-12)
    outside = (minibatches(batch)[batch.owner] < 0) | ~batch.mask
    assert bool((weight_T[outside] == 0).all())
    assert weight_T.dtype == torch.float64


def test_a_worked_case() -> None:
    batch = scored([group(0, [1, 0], [4, 2])])
    loss_T = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], dtype=torch.float64)
    found = [float((rule(seen(batch)) * loss_T).sum()) for rule in RULES]
    assert found == pytest.approx([3.5, 4.0, 1.3125], abs=1e-12)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_two_replicas_weigh_as_one(rule: Aggregation, cut: int) -> None:
    whole = masked(scored(GROUPS), every=3)
    expected = weights(rule, whole)
    halves = [masked(scored(part), every=3) for part in (GROUPS[:cut], GROUPS[cut:])]
    found = on_replicas(lambda b, p: weights(rule, b, p), halves)
    assert torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_an_empty_replica_has_no_weights_and_changes_none(rule: Aggregation) -> None:
    whole = scored(GROUPS)
    found = on_replicas(lambda b, p: weights(rule, b, p), [whole, scored([])])
    assert torch.equal(found[0], weights(rule, whole))
    assert found[1].tolist() == []


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_batch_without_a_trained_token_weighs_nothing(rule: Aggregation) -> None:
    batch = scored(GROUPS)
    batch = replace(batch, mask=torch.zeros_like(batch.mask))
    weight_T = weights(rule, batch)
    assert weight_T.tolist() == [0.0] * batch.num_tokens
