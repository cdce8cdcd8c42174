"""Time of log-probability and entropy from logits on the CPU, beside plain torch, torch.compile and a copy.

    python benchmarks/ops_cpu.py --out FILE [--tokens 1024] [--vocab 151936] [--threads 2] [--rounds 5]

Every round runs every variant once, one after the other, so that a change in the machine's load meets all of
them; the file holds each round's seconds and the medians are of those. Thread CPU time is kept beside the
wall clock: where other work takes the processor away it is the steadier of the two with one thread.

Rows are Gaussian with a standard deviation of 3; three in five have one logit that leads by 20 to 30, as most
tokens of a policy do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from megaent.ops import cpu, logprob_entropy

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_logits(num_tokens: int, vocab: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(num_tokens, vocab, generator=rng).mul_(3)
    target_N = torch.randint(vocab, (num_tokens,), generator=rng)
    is_peaked_N = torch.rand(num_tokens, generator=rng) < 0.6
    lead_N = 20 + 10 * torch.rand(num_tokens, generator=rng)
    logits_NV[is_peaked_N, target_N[is_peaked_N]] += lead_N[is_peaked_N]
    return logits_NV.to(dtype), target_N


def eager(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    log_p_NV = torch.log_softmax(logits_NV.float(), dim=1)
    return log_p_NV.gather(1, target_N[:, None])[:, 0], -(log_p_NV.exp() * log_p_NV).sum(1)


def forward_variants(logits_NV: Tensor, target_N: Tensor) -> dict[str, Callable[[], object]]:
    compiled = torch.compile(eager, dynamic=False)
    copy_NV = torch.empty_like(logits_NV)
    return {
        "copy": lambda: copy_NV.copy_(logits_NV),
        "eager": lambda: eager(logits_NV, target_N),
        "compile": lambda: compiled(logits_NV, target_N),
        "cpu": lambda: logprob_entropy(logits_NV, target_N, backend="cpu"),
    }


def training_variants(logits_NV: Tensor, target_N: Tensor) -> dict[str, Callable[[], object]]:
    """Forward and backward; ``cpu in place`` writes over a copy of the logits that is not timed."""
    compiled = torch.compile(eager, dynamic=False)
    grad_N = torch.randn(target_N.shape, generator=torch.Generator().manual_seed(1))
    leaf_NV = logits_NV.clone().requires_grad_()
    scratch_NV = torch.empty_like(logits_NV)

    def through(compute: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> None:
        torch.autograd.grad(compute(leaf_NV, target_N)[:2], leaf_NV, (grad_N, grad_N))

    def in_place() -> None:
        made_NV = scratch_NV.detach().requires_grad_()
        result = logprob_entropy(made_NV, target_N, backend="cpu", overwrite_logits=True)
        torch.autograd.grad(result[:2], made_NV, (grad_N, grad_N))

    return {
        "prepare": lambda: scratch_NV.copy_(logits_NV),
        "eager": lambda: through(eager),
        "compile": lambda: through(compiled),
        "cpu": lambda: through(lambda z, y: logprob_entropy(z, y, backend="cpu")[:2]),
        "prepare again": lambda: scratch_NV.copy_(logits_NV),
        "cpu in place": in_place,
    }


def measure(variants: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of every round, after one round that is thrown away."""
    times: dict[str, dict[str, list[float]]] = {name: {"wall_s": [], "cpu_s": []} for name in variants}
    for number in range(num_rounds + 1):
        for name, call in variants.items():
            wall, used = time.perf_counter(), time.process_time()
            call()
            if number > 0:
                times[name]["wall_s"].append(time.perf_counter() - wall)
                times[name]["cpu_s"].append(time.process_time() - used)
    return times


def medians(times: dict[str, dict[str, list[float]]], clock: str) -> dict[str, float]:
    return {
        name: statistics.median(kinds[clock])
        for name, kinds in times.items()
        if not name.startswith("prepare")
    }


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return f"{names[0]}, {os.cpu_count()} cores" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = {
        "processor": processor(),
        "level": cpu.simd_level(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg(),
        **{name: getattr(options, name) for name in ("tokens", "vocab", "threads", "rounds")},
        "results": {},
    }
    for name, dtype in DTYPES.items():
        for what, make in (("forward", forward_variants), ("forward and backward", training_variants)):
            times = measure(make(*make_logits(options.tokens, options.vocab, dtype)), options.rounds)
            of_wall, of_cpu = medians(times, "wall_s"), medians(times, "cpu_s")
            report["results"][f"{what}, {name}"] = {
                "median_wall_s": of_wall,
                "median_cpu_s": of_cpu,
                "rounds": times,
            }
            print(f"{what}, {name}: wall {rounded(of_wall)}, cpu {rounded(of_cpu)}", flush=True)
            report["load_after"] = os.getloadavg()
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")


def rounded(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())


if __name__ == "__main__":
    main()
