"""Clocks and memory. Every round runs every call once, so that a change in the machine's load meets all."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

# The launches of a call queue up behind this, so that none waits for Python: about 10 ms of a GPU.
_BACKLOG_CYCLES = 20_000_000


class Call(NamedTuple):
    run: Callable[[], object]
    prepare: Callable[[], object] | None = None  # before each run, not timed


class Seconds(NamedTuple):
    """Of each round. ``cpu`` is the process's, over all its threads; on a GPU it is empty."""

    wall: list[float]
    cpu: list[float]


def measure(calls: Mapping[str, Call], num_rounds: int, device: str) -> dict[str, Seconds]:
    """Seconds of every round. Warming up is the caller's: each call has run before, to be checked."""
    seconds = {name: Seconds([], []) for name in calls}
    once = _once_on_gpu if device == "cuda" else _once_on_cpu
    for _ in range(num_rounds):
        for name, call in calls.items():
            if call.prepare is not None:
                call.prepare()
            wall, cpu = once(call.run)
            seconds[name].wall.append(wall)
            seconds[name].cpu.extend(cpu)
    return seconds


def _once_on_cpu(run: Callable[[], object]) -> tuple[float, list[float]]:
    wall, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, [time.process_time() - used]


def _once_on_gpu(run: Callable[[], object]) -> tuple[float, list[float]]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(_BACKLOG_CYCLES)
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3, []


def peak_extra_bytes(run: Callable[[], object], device: str) -> int:
    """The most that was allocated during a call beyond what there was before it, its results included."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del kept
        return peak
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints when it starts and when it stops
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        kept = run()
    del kept
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        return _peak_of(json.loads(trace.read_text())["traceEvents"])


def _peak_of(events: list[dict]) -> int:
    """Of torch's allocations and releases, in the order of time."""
    changes = [(event["ts"], int(event["args"]["Bytes"])) for event in events if event["name"] == "[memory]"]
    peak = now = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        now += change
        peak = max(peak, now)
    return peak
