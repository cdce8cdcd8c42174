"""Costs divided into parts: against every division there is, and against differencing by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaent.experience.balance import deal, imbalance, largest_differencing, lightest_first, partition

costs = st.lists(st.integers(0, 1000), max_size=7)


def heaviest(cost: list[int], members: list[list[int]]) -> int:
    return max(sum(cost[i] for i in part) for part in members)


def best(cost: list[int], parts: int) -> int:
    """Of every way to divide them."""
    return min(
        max(sum(c for c, to in zip(cost, where, strict=True) if to == part) for part in range(parts))
        for where in itertools.product(range(parts), repeat=len(cost))
    )


def differenced(cost: list[int]) -> int:
    """Two ways, as Karmarkar and Karp write it: the two largest give way to their difference."""
    left = sorted(cost)
    while len(left) > 1:
        left = sorted([*left[:-2], left[-1] - left[-2]])
    return left[0] if left else 0


@settings(deadline=None)
@given(costs)
def test_two_parts_differ_by_what_differencing_leaves(cost: list[int]) -> None:
    one, other = (sum(cost[i] for i in part) for part in largest_differencing(cost, 2))
    assert one - other == differenced(cost)


def test_the_textbook_s_example() -> None:
    cost = [8, 7, 6, 5, 4]
    assert [sum(cost[i] for i in part) for part in largest_differencing(cost, 2)] == [16, 14]
    assert [sum(cost[i] for i in part) for part in lightest_first(cost, 2)] == [17, 13]


@pytest.mark.parametrize("divide", [largest_differencing, lightest_first, partition])
@settings(deadline=None)
@given(cost=costs, parts=st.integers(1, 9))
def test_every_item_is_in_one_part(divide, cost: list[int], parts: int) -> None:
    members = divide(cost, parts)
    assert len(members) == parts
    assert sorted(itertools.chain.from_iterable(members)) == list(range(len(cost)))


@settings(max_examples=40, deadline=None)
@given(cost=st.lists(st.integers(0, 1000), max_size=6), parts=st.integers(1, 3))
def test_the_heaviest_part_is_within_graham_s_bound_of_the_best(cost: list[int], parts: int) -> None:
    found, optimum = heaviest(cost, partition(cost, parts)), best(cost, parts)
    assert optimum <= found
    assert 3 * parts * found <= (4 * parts - 1) * optimum


def test_many_items_are_divided_almost_evenly() -> None:
    cost = [1 + (7919 * i * i) % 1009 for i in range(400)]
    assert heaviest(cost, largest_differencing(cost, 16)) * 16 / sum(cost) < 1.0001
    naive = [list(range(part, 400, 16)) for part in range(16)]
    assert heaviest(cost, naive) * 16 / sum(cost) > 1.05


# ---------------------------------------------------------------- rounds


@settings(deadline=None)
@given(rounds=st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=4), parts=st.integers(1, 4))
def test_each_round_is_divided_as_if_it_were_alone(rounds: list[list[int]], parts: int) -> None:
    named = [{(number, i): cost for i, cost in enumerate(row)} for number, row in enumerate(rounds)]
    holder = deal(named, parts)
    assert set(holder) == {item for row in named for item in row}
    for row, of in zip(rounds, named, strict=True):
        loads = [sum(cost for item, cost in of.items() if holder[item] == part) for part in range(parts)]
        assert max(loads) == heaviest(row, partition(row, parts))


def test_who_did_most_in_one_round_does_least_in_the_next() -> None:
    assert deal([{"a": 9, "b": 1}, {"c": 9, "d": 1}], 2) == {"a": 0, "b": 1, "c": 1, "d": 0}


def test_the_imbalance_is_the_time_taken_over_the_time_needed() -> None:
    assert imbalance([[4, 4]]) == 1.0
    assert imbalance([[3, 1]]) == pytest.approx(6 / 4)
    assert imbalance([[3, 1], [1, 3]]) == pytest.approx(12 / 8), "each round waits for its own busiest"
    assert imbalance([[0, 0], []]) == imbalance([]) == 1.0
