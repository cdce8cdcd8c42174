"""Engines and a loop simulated token by token: what closed forms and the fleet are compared with."""

from __future__ import annotations

import heapq

import numpy as np

from megaent.plan.cluster import find_cluster
from megaent.plan.constants import Constants
from megaent.plan.generation import decode_seconds
from megaent.plan.lengths import Lengths
from megaent.plan.machine import Machine
from megaent.plan.shapes import SHAPES

MACHINE = Machine(find_cluster("h100"), Constants())
SHAPE = SHAPES["qwen2_5_7b"]
PROMPT = 200


def token_s(responses: float, context: float) -> float:
    return decode_seconds(MACHINE, SHAPE, 1, responses, context)


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


def period(depth: int, train_s: float, *, requests: int, lengths: Lengths) -> float:
    """Seconds a step, mean over 150."""
    times = taken_at(depth, train_s, requests=requests, lengths=lengths, steps=160)
    return float(np.mean(np.diff(times[10:])))


def taken_at(depth: int, train_s: float, *, requests: int, lengths: Lengths, steps: int) -> list[float]:
    """Seconds at which a trainer takes batch t from one engine while t + 1 … t + depth are drawn."""
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
    return times
