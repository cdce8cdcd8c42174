"""Whole prompts dealt to the replicas, so that each has as much work in every optimizer step.

Who drew a response says nothing of who learns from it: lengths are known only afterwards. Each leader tells
the others what its prompts cost, all of them come to the same division, and what changes hands is sent to its
new holder and to nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megaent.actor.actor import Placement
from megaent.experience.balance import deal, imbalance
from megaent.experience.pack import SECOND_ROLLOUT, minibatch_of_places
from megaent.experience.work import Work
from megaent.types import Experience, Group


@dataclass(frozen=True, slots=True)
class Entry:
    """What every rank knows of a prompt of the step."""

    place: int  # of the prompt; both of its rollouts stand there and stay together
    holder: int  # the replica that learns from it
    cost: int  # operations (megaent.experience.work)


def deal_groups(groups: Sequence[Group], layout: Placement, work: Work, num_minibatches: int) -> list[Group]:
    """The groups that this replica is to learn from, of what all have. A collective of the leaders."""
    mine = [(group.index % SECOND_ROLLOUT, _cost(group, work)) for group in groups]
    cost: dict[int, int] = {}
    for place, value in sorted(layout.gather_over_replicas(mine)):
        cost[place] = cost.get(place, 0) + value
    rounds: list[dict[int, int]] = [{} for _ in range(num_minibatches)]
    for place, minibatch in minibatch_of_places(cost, num_minibatches).items():
        rounds[minibatch][place] = cost[place]
    holder = deal(rounds, layout.dp)
    parts: list[list[Group]] = [[] for _ in range(layout.dp)]
    for group in groups:
        parts[holder[group.index % SECOND_ROLLOUT]].append(group)
    return sorted(layout.exchange(parts), key=lambda group: group.index)


def entries(batch: Experience, layout: Placement, work: Work) -> list[Entry]:
    """Of every replica's prompts. A collective of all ranks."""
    lengths: list[list[int]] = [[] for _ in batch.prompts]
    for group, length in zip(batch.group.tolist(), batch.length.tolist(), strict=True):
        lengths[group].append(length)
    mine = [
        Entry(index % SECOND_ROLLOUT, layout.dp_rank, work.of_group(len(prompt.tokens), lengths[group]))
        for group, (index, prompt) in enumerate(zip(batch.index.tolist(), batch.prompts, strict=True))
    ]
    return layout.gather_over_replicas(mine)


def imbalance_of_replicas(entries: Sequence[Entry], num_minibatches: int, dp: int) -> float:
    """Of the work that each has in every optimizer step."""
    minibatch = minibatch_of_places((entry.place for entry in entries), num_minibatches)
    rounds: dict[int, list[int]] = {}
    for entry in entries:
        rounds.setdefault(minibatch[entry.place], [0] * dp)[entry.holder] += entry.cost
    return imbalance(rounds.values())


def _cost(group: Group, work: Work) -> int:
    return work.of_group(len(group.prompt.tokens), [len(response.tokens) for response in group.responses])
