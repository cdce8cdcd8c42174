"""The closed form of generation against engines that are simulated request by request on drawn lengths."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from megaent.plan.cluster import find_cluster
from megaent.plan.constants import Constants
from megaent.plan.generation import Engines, decode_seconds, generate_seconds, token_bytes
from megaent.plan.lengths import Lengths
from megaent.plan.machine import Machine
from megaent.plan.shapes import SHAPES

MACHINE = Machine(find_cluster("h100"), Constants())
SHAPE = SHAPES["qwen2_5_7b"]
PROMPT = 200


def drawn(lengths: Lengths, count: int, seed: int) -> np.ndarray:
    sigma = np.sqrt(np.log(1 + lengths.spread**2))
    normal = np.random.default_rng(seed).standard_normal(count)
    return np.ceil(np.minimum(np.exp(lengths._mu + sigma * normal), lengths.longest))


def simulated(tokens: np.ndarray, room: int, *, until: int | None = None) -> float:
    """Seconds of one engine: as many requests at once as it has room for, the next when one ends.

    Between two ends the batch stays, and its contexts grow; ``until`` stops after so many ends.
    """
    waiting = list(tokens[::-1])
    running: list[tuple[float, float]] = []  # decode step of the end, and of the start
    clock, step, ended, started = 0.0, 0.0, 0, 0.0
    while waiting or running:
        while waiting and len(running) < room:
            heapq.heappush(running, (step + waiting.pop(), step))
            started += step
        end, start = heapq.heappop(running)
        batch = len(running) + 1
        context = PROMPT + (end + step) / 2 - started / batch
        clock += (end - step) * decode_seconds(MACHINE, SHAPE, 1, batch, context)
        step, ended, started = end, ended + 1, started - start
        if until is not None and ended == until:
            break
    return clock


def engines(count: int, room: float, mean: float) -> Engines:
    """With memory for just so many requests of mean length."""
    alone = Engines(cards=count, tp=1, memory=0.0)
    return Engines(
        cards=count, tp=1, memory=alone.weights(SHAPE) + room * (PROMPT + mean) * token_bytes(SHAPE)
    )


@pytest.mark.parametrize(("requests", "room"), [(64, 128), (192, 48), (256, 128)])
@pytest.mark.parametrize("spread", [0.3, 0.8, 1.2])
def test_a_batch_takes_as_long_as_its_slowest_engine(requests: int, room: int, spread: float) -> None:
    count = 4
    lengths = Lengths(mean=1500.0, longest=8192, spread=spread)
    times = []
    for seed in range(6):
        tokens = drawn(lengths, count * requests, seed).reshape(count, requests)
        times.append(max(simulated(each, room) for each in tokens))
    planned = generate_seconds(
        MACHINE, SHAPE, engines(count, room, 1500.0), lengths,
        prompts=count * requests / 8, group=8, prompt=PROMPT,
    )  # fmt: skip
    assert planned.decode + planned.tail == pytest.approx(np.mean(times), rel=0.10)


@pytest.mark.parametrize("ahead", [2, 4])
def test_a_batch_costs_its_share_of_throughput_where_new_prompts_fill_the_gaps(ahead: int) -> None:
    requests, room = 32, 256
    lengths = Lengths(mean=1500.0, longest=8192, spread=0.8)
    tokens = drawn(lengths, 60 * requests, 0)
    together = min(room, ahead * requests)
    begun, rounds = 10 * requests, 40 * requests
    seconds = simulated(tokens, together, until=begun + rounds) - simulated(tokens, together, until=begun)
    planned = generate_seconds(
        MACHINE, SHAPE, engines(1, room, 1500.0), lengths,
        prompts=requests / 8, group=8, prompt=PROMPT, ahead=ahead,
    )  # fmt: skip
    assert planned.steady - planned.prefill == pytest.approx(seconds / 40, rel=0.10)


def period(depth: int, train_s: float, *, requests: int, lengths: Lengths, steps: int = 160) -> float:
    """Seconds a step of one engine and a trainer that takes batch t while t + 1 … t + depth are drawn."""
    running: list[list[float]] = []  # tokens left, context, step
    left = dict.fromkeys(range(steps + depth + 1), requests)
    clock = free = 0.0
    taken, begun, times = 0, 0, []
    while taken < steps:
        for step in range(begun, taken + depth):
            running += [[tokens, PROMPT, step] for tokens in drawn(lengths, requests, step)]
            begun = step + 1
        if left[taken] == 0 and clock >= free:
            times.append(clock)
            free, taken = clock + train_s, taken + 1
            continue
        if not running:
            clock = free
            continue
        cost = decode_seconds(MACHINE, SHAPE, 1, len(running), np.mean([c for _, c, _ in running]))
        count = min(tokens for tokens, _, _ in running)
        if left[taken] == 0:
            count = min(count, max(1.0, np.ceil((free - clock) / cost)))
        clock += count * cost
        for each in running:
            each[0], each[1] = each[0] - count, each[1] + count
            left[int(each[2])] -= each[0] <= 0
        running = [each for each in running if each[0] > 0]
    return float(np.mean(np.diff(times[10:])))


@pytest.mark.parametrize(("depth", "train_s"), [(2, 1.0), (4, 1.0), (8, 1.0), (2, 60.0), (4, 60.0)])
def test_a_step_with_batches_ahead_waits_for_the_longest_of_its_limits(depth: int, train_s: float) -> None:
    lengths = Lengths(mean=1500.0, longest=8192, spread=0.8)
    planned = generate_seconds(
        MACHINE, SHAPE, engines(1, 10_000, 1500.0), lengths, prompts=4, group=8, prompt=PROMPT, ahead=depth
    )
    limit = max(planned.steady, planned.slowest / depth, train_s)
    assert limit == pytest.approx(period(depth, train_s, requests=32, lengths=lengths), rel=0.10)
