"""How fast this machine multiplies, attends, copies and exchanges, in the form that a plan asks for.

A plan counts two bytes an element. On a processor an element has four, so every byte of the plan counts twice
here; with states in bf16 that makes a plan of training in fp32.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from megaent.plan.cluster import Cluster
from megaent.plan.constants import Constants
from megaent.plan.machine import Machine
from megaent.scale.processes import run_module

_ROUNDS = 7
_EXCHANGE_LIMIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of one process on one thread, fp32; ``product_half`` is a side that halves the rate of products."""

    cores: int
    product_flops: float
    product_half: float
    attention_flops: float
    copy_bytes_per_s: float  # read and written
    exchange_bytes_per_s: float  # of an all-gather between two processes
    exchange_latency_s: float


@dataclass(frozen=True, slots=True)
class Here(Machine):
    """A ``Machine`` whose ranks are this machine's processes."""

    attention_flops: float = 0.0

    def peak(self, *, fp8: bool = False) -> float:
        return self.cluster.bf16_tflops * 1e12

    def attention(
        self, operations: float, *, head_dim: int, backward: bool = False, older: bool = False
    ) -> float:
        return operations / self.attention_flops


def machine_of(rates: Rates) -> Here:
    cluster = Cluster(
        name="this machine", generation="cpu", bf16_tflops=rates.product_flops / 1e12, fp8_tflops=0.0,
        memory_gib=1.0, memory_gbps=rates.copy_bytes_per_s / 2e9, cards_per_node=rates.cores,
        link_gbps=rates.exchange_bytes_per_s / 2e9, network_gbps=rates.exchange_bytes_per_s / 2e9,
        host_gbps=rates.copy_bytes_per_s / 2e9,
    )  # fmt: skip
    latency = rates.exchange_latency_s
    constants = Constants(
        gemm_half=rates.product_half, memory_share=1.0, link_share=1.0, network_share=1.0,
        link_latency_s=latency, network_latency_s=latency, step_overhead_s=0.0, kernel_latency_s=0.0,
    )  # fmt: skip
    return Here(cluster, constants, rates.attention_flops)


# ---------------------------------------------------------------- measured


def measure_here() -> Rates:
    """About ten seconds. Raises RunError where two processes do not exchange within two minutes."""
    import torch

    torch.set_num_threads(1)
    peak = _product_rate(1024, 1024, 1024)
    side = 64
    narrow = _product_rate(1024, side, side)
    rate, latency = _exchange()
    return Rates(
        cores=len(os.sched_getaffinity(0)),
        product_flops=peak,
        product_half=max(0.0, side * ((peak / narrow) ** 0.5 - 1)),
        attention_flops=_attention_rate(),
        copy_bytes_per_s=_copy_rate(),
        exchange_bytes_per_s=rate,
        exchange_latency_s=latency,
    )


def _product_rate(m: int, n: int, k: int) -> float:
    import torch

    left, right = torch.randn(m, k), torch.randn(k, n)
    return 2 * m * n * k / _seconds(lambda: left @ right)


def _attention_rate(*, heads: int = 8, length: int = 512, width: int = 16) -> float:
    """Causal attention, the upper triangle not counted."""
    import torch

    query = torch.randn(1, heads, length, width)
    attend = torch.nn.functional.scaled_dot_product_attention
    operations = 4 * heads * length * length * width / 2
    return operations / _seconds(lambda: attend(query, query, query, is_causal=True))


def _copy_rate(*, num_bytes: int = 64 * 2**20) -> float:
    import torch

    source = torch.ones(num_bytes // 4)
    target = torch.empty_like(source)
    return 2 * num_bytes / _seconds(lambda: target.copy_(source))


def _exchange() -> tuple[float, float]:
    """Bytes a second and seconds of latency of an all-gather between two processes."""
    said = run_module("megaent.actor.exchange_rate", [], ranks=2, limit_s=_EXCHANGE_LIMIT_S)
    found = next(json.loads(line) for line in said if line.startswith("{"))
    return found["bytes_per_s"], found["latency_s"]


def _seconds(work: Callable[[], object]) -> float:
    """Median over some rounds, after one that warms up."""
    work()
    times = []
    for _ in range(_ROUNDS):
        begun, count = time.perf_counter(), 0
        while count == 0 or time.perf_counter() - begun < 0.05:
            work()
            count += 1
        times.append((time.perf_counter() - begun) / count)
    return median(times)
