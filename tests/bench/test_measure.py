"""Clocks and memory say what they are said to."""

from __future__ import annotations

import torch

from megaent.bench.measure import Call, measure, peak_extra_bytes


def test_every_round_runs_every_call_once() -> None:
    order: list[str] = []
    calls = {
        "a": Call(lambda: order.append("a")),
        "b": Call(lambda: order.append("b"), lambda: order.append("before b")),
    }
    seconds = measure(calls, 3, "cpu")
    assert order == ["a", "before b", "b"] * 3
    assert all(len(s.wall) == len(s.cpu) == 3 for s in seconds.values())


def test_memory_is_the_most_at_any_moment_and_not_what_is_left() -> None:
    def run() -> torch.Tensor:
        first = torch.empty(3_000_000, dtype=torch.uint8)
        del first
        second = torch.empty(2_000_000, dtype=torch.uint8)
        third = torch.empty(500_000, dtype=torch.uint8)
        return torch.cat([second[:4], third[:4]])

    rounded = 4096  # an allocator may round up
    assert 3_000_000 <= peak_extra_bytes(run, "cpu") < 3_000_000 + rounded


def test_what_was_there_before_does_not_count() -> None:
    there = torch.empty(5_000_000, dtype=torch.uint8)
    assert peak_extra_bytes(lambda: there.zero_(), "cpu") < 4096
