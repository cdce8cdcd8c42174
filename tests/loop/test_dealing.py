"""What the ledger of a step says; tests/parallel deals prompts between real processes."""

from __future__ import annotations

import pytest
from support.builders import group

from megaent.experience.pack import SECOND_ROLLOUT, pack
from megaent.experience.work import Work
from megaent.loop.dealing import Entry, deal_groups, entries, imbalance_of_replicas
from megaent.types import Alone

WORK = Work(per_token=1000, per_prediction=0, per_pair=1)


def test_both_rollouts_of_a_prompt_stand_at_its_place() -> None:
    groups = [group(4, [1, 0], [3, 1], prompt_length=2), group(SECOND_ROLLOUT + 4, [1], [2], prompt_length=2)]
    found = entries(pack(groups), Alone(), WORK)
    of_lengths_4_2_and_3 = [6000 + (1 + 2 + 3 + 4) + (1 + 2), 3000 + (1 + 2 + 3)]
    assert found == [Entry(4, 0, cost) for cost in of_lengths_4_2_and_3]


def test_one_replica_keeps_what_it_has_in_the_order_of_prompts() -> None:
    groups = [group(2, [1], [3]), group(0, [1], [9])]
    assert deal_groups(groups, Alone(), WORK, 2) == groups[::-1]


def test_each_optimizer_step_waits_for_its_own_busiest_replica() -> None:
    held = [Entry(0, 0, 30), Entry(1, 1, 10), Entry(2, 0, 10), Entry(3, 1, 30)]
    assert imbalance_of_replicas(held, 2, 2) == pytest.approx((30 + 30) * 2 / 80)
    assert imbalance_of_replicas(held, 1, 2) == 1.0, "over one step they did as much"
