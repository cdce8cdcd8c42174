"""Costs divided into parts whose heaviest is as light as can be found, the same on every rank."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import count
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


def largest_differencing(cost: Sequence[int], parts: int) -> list[list[int]]:
    """Indices of ``cost`` in ``parts`` lists, heaviest first: Karmarkar and Karp's differencing, k ways.

    "The Differencing Method of Set Partitioning" (1982), in the form for k parts of Korf, "Multi-Way Number
    Partitioning" (2009): every item begins as a partition of its own; the two partitions whose heaviest and
    lightest parts are farthest apart are joined, heaviest to lightest, until one is left. Ties go to the
    partition that was made first. Takes O(n (k log k + log n)) steps.
    """
    if not cost:
        return [[] for _ in range(parts)]
    made = count()
    empty: list[_Part] = [(0, [])] * (parts - 1)
    heap = [_entry([(value, [i]), *empty], made) for i, value in enumerate(cost)]
    heapq.heapify(heap)
    while len(heap) > 1:
        (_, _, one), (_, _, other) = heapq.heappop(heap), heapq.heappop(heap)
        joined = [(a + b, x + y) for (a, x), (b, y) in zip(one, reversed(other), strict=True)]
        heapq.heappush(heap, _entry(sorted(joined, key=lambda part: -part[0]), made))
    return [members for _, members in heap[0][2]]


_Part = tuple[int, list[int]]  # its cost, and whose


def _entry(partition: list[_Part], made: count) -> tuple[int, int, list[_Part]]:
    """``partition`` is sorted, heaviest part first."""
    return partition[-1][0] - partition[0][0], next(made), partition


def lightest_first(cost: Sequence[int], parts: int) -> list[list[int]]:
    """Each item, heaviest first, to the part that is lightest then: Graham's LPT rule (1969)."""
    members: list[list[int]] = [[] for _ in range(parts)]
    loads = [(0, part) for part in range(parts)]
    for item in sorted(range(len(cost)), key=lambda i: (-cost[i], i)):
        load, part = heapq.heappop(loads)
        members[part].append(item)
        heapq.heappush(loads, (load + cost[item], part))
    return members


def partition(cost: Sequence[int], parts: int) -> list[list[int]]:
    """The better of both; largest differencing where they are equal."""
    found = [largest_differencing(cost, parts), lightest_first(cost, parts)]
    return min(found, key=lambda members: max(_loads(cost, members), default=0))


def deal(rounds: Sequence[Mapping[Item, int]], parts: int) -> dict[Item, int]:
    """Item -> part, for rounds that all parts end together: optimizer steps, with the cost of each item.

    Every round is divided on its own; its heaviest part goes to whoever did least in the rounds before.
    """
    done = [0] * parts
    holder: dict[Item, int] = {}
    for cost_of in rounds:
        items, cost = list(cost_of), list(cost_of.values())
        members = partition(cost, parts)
        loads = _loads(cost, members)
        heaviest = sorted(range(parts), key=lambda part: (-loads[part], part))
        idlest = sorted(range(parts), key=lambda part: (done[part], part))
        for part, to in zip(heaviest, idlest, strict=True):
            done[to] += loads[part]
            holder |= {items[i]: to for i in members[part]}
    return holder


def imbalance(rounds: Iterable[Sequence[int]]) -> float:
    """Of the parts' costs in each round: parts times the largest, over the sum; 1 where all are equal.

    The time taken over the time needed, where a round lasts as long as its heaviest part. 1 where there is no
    work.
    """
    worked = [loads for loads in rounds if loads]
    busiest = sum(max(loads) * len(loads) for loads in worked)
    total = sum(map(sum, worked))
    return busiest / total if total else 1.0


def _loads(cost: Sequence[int], members: Sequence[Sequence[int]]) -> list[int]:
    return [sum(cost[i] for i in part) for part in members]
