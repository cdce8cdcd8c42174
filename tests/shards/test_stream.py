"""The order of sequences: once an epoch, near its neighbours, the same for any leaders, after any stop."""

from __future__ import annotations

import json

import pytest

from megaent.errors import DataError
from megaent.shards.stream import Source, Stream


def stream(
    *sizes: int, weights: tuple[float, ...] = (), seed: int = 3, window: int = 8, **leader: int
) -> Stream:
    given = weights or (1.0,) * len(sizes)
    sources = [Source(size=n, digest=f"d{n}", weight=w) for n, w in zip(sizes, given, strict=True)]
    return Stream(sources, seed=seed, window=window, **leader)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 50])
@pytest.mark.parametrize("window", [1, 8, 100])
def test_every_sequence_once_an_epoch(size: int, window: int) -> None:
    order = stream(size, window=window)
    for _ in range(3):
        assert sorted(place.number for place in order.take(size)) == list(range(size))


def test_a_window_is_finished_before_the_next_begins() -> None:
    numbers = [place.number for place in stream(48).take(48)]
    windows = [number // 8 for number in numbers[::8]]
    assert [number // 8 for number in numbers] == [window for window in windows for _ in range(8)]
    assert windows != sorted(windows)
    assert numbers[:8] != sorted(numbers[:8])


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    one, other = stream(48, seed=1).take(96), stream(48, seed=2).take(96)
    assert len({tuple(each) for each in (one[:48], one[48:], other[:48], other[48:])}) == 4
    assert one == stream(48, seed=1).take(96)


@pytest.mark.parametrize("leaders", [1, 2, 3, 4])
def test_leaders_share_one_order(leaders: int) -> None:
    whole = stream(50).take(120)
    parts = [stream(50, leader=r, leaders=leaders).take(120) for r in range(leaders)]
    assert [place for row in zip(*parts, strict=True) for place in row] == whole


def test_a_state_goes_on_under_another_number_of_leaders() -> None:
    whole = stream(30, 70, weights=(1.0, 3.0)).take(200)
    before = stream(30, 70, weights=(1.0, 3.0), leader=1, leaders=4)
    before.take(80)
    state = json.loads(json.dumps(before.state))
    after = [stream(30, 70, weights=(1.0, 3.0), leader=r, leaders=3) for r in range(3)]
    for each in after:
        each.restore(state)
    rest = [place for row in zip(*(each.take(120) for each in after), strict=True) for place in row]
    assert rest == whole[80:]


def test_a_mixture_keeps_its_shares_at_every_place() -> None:
    weights = (5.0, 2.0, 1.0)
    given = [0, 0, 0]
    for count, place in enumerate(stream(10, 100, 1000, weights=weights).take(400), start=1):
        given[place.source] += 1
        assert all(abs(n - count * w / 8) < 2 for n, w in zip(given, weights, strict=True))
    assert given == [250, 100, 50]


def test_a_state_of_another_stream_is_refused() -> None:
    state = stream(50).state
    for other in (
        stream(51),
        stream(50, seed=4),
        stream(50, window=9),
        stream(50, 50),
        stream(50, weights=(2.0,)),
    ):
        with pytest.raises(DataError, match="other shards, weights, seed or window"):
            other.restore(state)


def test_what_makes_no_stream_is_refused() -> None:
    for odd in ({"window": 0}, {"leader": 2, "leaders": 2}):
        with pytest.raises(DataError, match="needs sources, a window of 1 or more"):
            stream(5, **odd)  # type: ignore[arg-type]
    for sizes, weights in (((0,), (1.0,)), ((5,), (0.0,))):
        with pytest.raises(DataError, match="a weight above 0"):
            stream(*sizes, weights=weights)


@pytest.mark.parametrize(("size", "window"), [(9, 2), (30, 8), (100, 7), (100, 1000)])
def test_none_comes_twice_within_a_third_of_its_set(size: int, window: int) -> None:
    numbers = [place.number for place in stream(size, window=window).take(12 * size)]
    apart = Source(size=size, digest="").apart
    assert apart == size // 3
    assert all(len(set(numbers[i : i + apart])) == apart for i in range(len(numbers) - apart))
    assert all(sorted(numbers[e * size : (e + 1) * size]) == list(range(size)) for e in range(12))


@pytest.mark.parametrize("asked", [0, 1, 77, 400])
def test_seeking_is_taking(asked: int) -> None:
    weights = (2.0, 3.0)
    whole = stream(30, 70, weights=weights).take(500)
    sought = stream(30, 70, weights=weights)
    sought.take(90)
    sought.seek(asked)
    assert sought.take(100) == whole[asked : asked + 100]
