"""The closed form of generation against engines that are simulated request by request on drawn lengths."""

from __future__ import annotations

import numpy as np
import pytest
from support.token_by_token import MACHINE, PROMPT, SHAPE, drawn, period, simulated

from megaent.plan.generation import Engines, generate_seconds, token_bytes
from megaent.plan.lengths import Lengths


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


@pytest.mark.parametrize(("depth", "train_s"), [(2, 1.0), (4, 1.0), (8, 1.0), (2, 60.0), (4, 60.0)])
def test_a_step_with_batches_ahead_waits_for_the_longest_of_its_limits(depth: int, train_s: float) -> None:
    lengths = Lengths(mean=1500.0, longest=8192, spread=0.8)
    planned = generate_seconds(
        MACHINE, SHAPE, engines(1, 10_000, 1500.0), lengths, prompts=4, group=8, prompt=PROMPT, ahead=depth
    )
    limit = max(planned.steady, planned.slowest / depth, train_s)
    assert limit == pytest.approx(period(depth, train_s, requests=32, lengths=lengths), rel=0.10)
