"""``estimate``: a method and a scored batch to one number per token and term."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import pytest
import torch
from support.builders import group, masked, on_replicas, scored
from torch import Tensor

from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.compose import Alone, Method, Population, estimate
from megaent.types import Experience, Metrics, TokenTerms

GROUPS = [group(0, [1, 0, 1], [4, 2, 9]), group(1, [0, 0], [1, 7]), group(2, [1, 0, 0, 0], [3, 3, 1, 12])]


@dataclass(frozen=True)
class AboveTheMean:
    """Tokens whose entropy is above the mean of all replicas' tokens."""

    def __call__(self, advantage_T: Tensor, batch: Experience, population: Population) -> Tensor:
        assert batch.entropy is not None
        total, count = population.sum(torch.tensor([batch.entropy.double().sum(), batch.entropy.numel()]))
        return batch.entropy > total / count


def method(selections: Mapping[str, AboveTheMean] | None = None) -> Method:
    return replace(build_method({"grpo": {}}), selections=selections or {})


def run(batch: Experience, population: Population, chosen: Method) -> tuple[TokenTerms, Metrics]:
    minibatch_S = batch.index[batch.group] % 2
    return estimate(chosen, batch, minibatch_S=minibatch_S, num_minibatches=2, population=population)


def test_every_token_gets_its_response_s_advantage_and_minibatch() -> None:
    batch = scored(GROUPS)
    terms, metrics = run(batch, Alone(), method())
    half = 1 / 3**0.5  # (1 - 2/3) / std of (1, 0, 1)
    expected = [half] * 4 + [-2 * half] * 2 + [half] * 9 + [0.0] * 8 + [1.5] * 3 + [-0.5] * 16
    assert terms.advantage.tolist() == pytest.approx(expected, abs=1e-5)
    assert terms.minibatch.tolist() == [0] * 15 + [1] * 8 + [0] * 19
    assert terms.weight.tolist() == pytest.approx([1 / 34] * 15 + [1 / 8] * 8 + [1 / 34] * 19)
    assert terms.advantage.dtype == terms.weight.dtype == torch.float32
    assert metrics["advantage/nonzero"] == pytest.approx(7 / 9)
    assert metrics["advantage/mean_abs"] == pytest.approx((4 * half + 3.0) / 9, abs=1e-5)


def test_two_replicas_estimate_as_one() -> None:
    chosen = method({"high": AboveTheMean()})
    whole, metrics = run(masked(scored(GROUPS), every=3), Alone(), chosen)
    parts = on_replicas(
        lambda b, p: run(b, p, chosen), [masked(scored(g), every=3) for g in (GROUPS[:1], GROUPS[1:])]
    )
    for name in ("advantage", "weight", "minibatch"):
        joined = torch.cat([getattr(terms, name) for terms, _ in parts])
        assert torch.equal(joined, getattr(whole, name)), name
    assert torch.equal(torch.cat([terms.selections["high"] for terms, _ in parts]), whole.selections["high"])
    assert 0 < int(whole.selections["high"].sum()) < whole.advantage.numel()
    for _, found in parts:
        assert found == pytest.approx(metrics, rel=1e-12)


def test_nothing_is_changed_in_place() -> None:
    batch = scored(GROUPS)
    before = copy.deepcopy(batch)
    run(batch, Alone(), method({"high": AboveTheMean()}))
    for item in fields(batch):
        value = getattr(batch, item.name)
        if isinstance(value, Tensor):
            assert torch.equal(value, getattr(before, item.name)), item.name


def test_a_batch_without_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="call score first"):
        run(pack(GROUPS), Alone(), method())


def test_an_empty_batch_gives_empty_terms() -> None:
    terms, metrics = run(scored([]), Alone(), method())
    assert terms.advantage.tolist() == terms.weight.tolist() == terms.minibatch.tolist() == []
    assert metrics == {"advantage/mean_abs": 0.0, "advantage/nonzero": 0.0}
