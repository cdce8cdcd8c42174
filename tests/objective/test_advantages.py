"""Group-relative advantages against numpy and worked cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.builders import group, on_replicas, scored

from megaent.objective.advantages import GroupRelative
from megaent.objective.compose import Alone


def advantages(rewards: list[list[float]], **options) -> list[float]:
    batch = scored([group(i, r, [2] * len(r)) for i, r in enumerate(rewards)])
    return GroupRelative(**options)(batch.reward, batch, Alone()).tolist()


@pytest.mark.parametrize("normalize", [True, False])
def test_each_group_is_compared_with_itself(normalize: bool) -> None:
    rng = np.random.default_rng(0)
    rewards = [list(rng.normal(size=size)) for size in (2, 8, 3, 16)]
    expected = []
    for values in map(np.array, rewards):
        centred = values - values.mean()
        expected += list(centred / (values.std(ddof=1) + 1e-6) if normalize else centred)
    np.testing.assert_allclose(advantages(rewards, normalize=normalize), expected, rtol=1e-12, atol=1e-12)


def test_worked_cases() -> None:
    half = 0.8660239037870368
    assert advantages([[1, 0, 0, 1]]) == pytest.approx([half, -half, -half, half], abs=1e-9)
    assert advantages([[1, 0, 0, 0]], normalize=False) == pytest.approx(
        [0.75, -0.25, -0.25, -0.25], abs=1e-12
    )


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1 / 3, 1e-9, 1e9])
@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_equal_rewards_teach_nothing(reward: float, size: int, normalize: bool) -> None:
    found = advantages([[reward] * size, [1.0, 0.0]], normalize=normalize)
    assert found[:size] == [0.0] * size, "exactly 0, whatever the mean rounds to"
    assert found[size] > 0 > found[size + 1]


def test_a_group_of_one_has_mean_0_and_deviation_1() -> None:
    assert advantages([[2.0], [1.0, 0.0]], normalize=False)[0] == 2.0
    assert advantages([[2.0]]) == pytest.approx([2.0 / (1 + 1e-6)], rel=1e-12)


def test_a_group_that_differs_by_little_is_not_blown_up() -> None:
    found = advantages([[0.0, 1e-12]])
    assert max(map(abs, found)) < 1e-5, "eps bounds the division"


def test_groups_on_other_replicas_do_not_matter() -> None:
    groups = [group(0, [1, 0, 0], [2, 1, 3]), group(1, [0, 1, 1, 1], [1, 1, 2, 5])]
    whole = scored(groups)
    expected = GroupRelative()(whole.reward, whole, Alone())
    parts = on_replicas(lambda b, p: GroupRelative()(b.reward, b, p), [scored([g]) for g in groups])
    assert torch.equal(torch.cat(parts), expected)


def test_an_empty_batch_has_no_advantages() -> None:
    assert advantages([]) == []
