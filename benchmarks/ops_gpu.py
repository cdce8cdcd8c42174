"""The vocabulary pass over logits on one GPU: Triton beside torch eager and torch.compile.

    python benchmarks/ops_gpu.py              needs a CUDA card; writes benchmarks/results/<card>/ops_gpu.json
    python benchmarks/ops_gpu.py --rehearse   the same program, tiny, in Triton's interpreter; writes nothing

Correctness first: a backend that is wrong is not timed. The share is of what a copy on this card moves in
the same seconds, bytes read and written; a pass is charged the bytes it cannot do without, the logits once
forward, once more and their gradient once backward.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")]
if "--rehearse" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

VOCABULARY = 151936  # Qwen2 and Qwen3
SIZES = [(1, VOCABULARY), (64, VOCABULARY), (4096, VOCABULARY), (16384, VOCABULARY), (16384, VOCABULARY // 8)]
TINY = [(2, 1000), (1, 3200)]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

Passes = tuple[Callable[[], object], Callable[[], object]]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="in the interpreter, tiny, nothing written")
    parser.add_argument("--out", type=Path, help="file of the raw numbers")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        print("ops_gpu did not run; missing: a CUDA device (--rehearse needs none)", file=sys.stderr)
        return 3
    device = "cpu" if options.rehearse else "cuda"
    copy = copy_bandwidth(device, 2**20 if options.rehearse else 2**32)
    result: dict[str, object] = {"machine": machine(), "copy_bytes_per_s": copy, "cases": []}
    for name, dtype in DTYPES.items():
        for num_tokens, vocab in TINY if options.rehearse else SIZES:
            case = measure(num_tokens, vocab, dtype, device, copy)
            show(name, case)
            result["cases"].append({"dtype": name} | case)  # type: ignore[attr-defined]
            if not case["passed"]:
                print("the kernels are wrong at this size; nothing more was timed", file=sys.stderr)
                return 1
    if not options.rehearse:
        write(result, options.out)
    return 0


def measure(num_tokens: int, vocab: int, dtype: torch.dtype, device: str, copy: float) -> dict[str, object]:
    """Errors against fp64, then seconds and the share of the copy of every variant."""
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.empty(num_tokens, vocab, dtype=dtype, device=device).normal_(0, 3, generator=generator)
    target = torch.randint(vocab, (num_tokens,), device=device, generator=generator)
    cotangents = torch.randn(2, num_tokens, device=device, generator=generator)
    case: dict[str, object] = {"num_tokens": num_tokens, "vocab": vocab}
    case |= check(logits, target, cotangents)
    if not case["passed"]:
        return case
    size = logits.numel() * logits.element_size()
    variants = {"triton": triton_passes, "eager": eager_passes}
    if device == "cuda":
        variants["compile"] = compiled_passes
    for variant, make in variants.items():
        try:
            forward, backward = make(logits, target, cotangents)
            seconds = {"forward": timed(forward, device), "backward": timed(backward, device)}
        except torch.cuda.OutOfMemoryError:
            case[variant] = "out of memory"
            continue
        case[variant] = {
            name: {"seconds": every, "share": size * reads / statistics.median(every) / copy}
            for (name, every), reads in zip(seconds.items(), (1, 2), strict=True)
        }
    return case


# ---------------------------------------------------------------- correctness


def check(logits: Tensor, target: Tensor, cotangents: Tensor) -> dict[str, object]:
    """At most eight rows, the first and the last among them, against the textbook in fp64; and repeatable."""
    from support.truth import gradients, textbook

    forward, backward = triton_passes(logits, target, cotangents)
    stats, dz = forward(), backward()
    repeats = torch.equal(stats, forward()) and torch.equal(dz, backward())
    rows = torch.linspace(0, len(target) - 1, min(8, len(target))).long().to(logits.device)
    exact = textbook(logits[rows].double(), target[rows])
    weights = list(cotangents[:, rows].double())
    _, (dz_exact,) = gradients(lambda z: textbook(z, target[rows]), logits[rows].double(), cotangents=weights)
    errors = {
        "log_prob_error": float((stats[0, rows].double() - exact.log_prob).abs().max()),
        "entropy_error": float((stats[1, rows].double() - exact.entropy).abs().max()),
        "gradient_error": float((dz[rows].double() - dz_exact).norm() / dz_exact.norm()),
    }
    rounding = 2 * torch.finfo(logits.dtype).eps
    passed = (
        repeats
        and errors["log_prob_error"] < 2e-5
        and errors["entropy_error"] < 2e-5
        and errors["gradient_error"] < max(rounding, 1e-5)
    )
    return errors | {"repeats_bit_for_bit": repeats, "passed": passed}


# ---------------------------------------------------------------- what is timed


def triton_passes(logits: Tensor, target: Tensor, cotangents: Tensor) -> Passes:
    """The backward pass into memory of its own that exists already, as in place would take it."""
    from megaent.ops import triton

    def forward() -> Tensor:
        part = triton.logits_stats(logits, target, vocab_start=0, inv_temperature=1.0)
        return triton.stats_combine([part], inv_temperature=1.0)

    stats, out = forward(), torch.empty_like(logits)

    def backward() -> Tensor:
        return triton.logits_stats_backward(
            logits,
            target,
            stats,
            grad_log_prob_N=cotangents[0],
            grad_entropy_N=cotangents[1],
            vocab_start=0,
            inv_temperature=1.0,
            out=out,
        )

    return forward, backward


def usual(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """As it is usually written."""
    log_p_NV = torch.log_softmax(logits.float(), dim=1)
    entropy_N = -(log_p_NV.exp() * log_p_NV).sum(1)
    return log_p_NV.gather(1, target[:, None])[:, 0], entropy_N


def autograd_passes(compute: Callable, logits: Tensor, target: Tensor, cotangents: Tensor) -> Passes:
    leaf = logits.detach().requires_grad_()
    outputs = compute(leaf, target)

    def backward() -> object:
        return torch.autograd.grad(outputs, leaf, list(cotangents), retain_graph=True)

    return (lambda: compute(leaf, target)), backward


def eager_passes(logits: Tensor, target: Tensor, cotangents: Tensor) -> Passes:
    return autograd_passes(usual, logits, target, cotangents)


def compiled_passes(logits: Tensor, target: Tensor, cotangents: Tensor) -> Passes:
    return autograd_passes(torch.compile(usual, dynamic=False), logits, target, cotangents)


# ---------------------------------------------------------------- clocks


def timed(call: Callable[[], object], device: str, repeats: int = 10) -> list[float]:
    """Seconds of each repeat; on a card measured by its own events, after three runs to warm up."""
    if device != "cuda":
        started = time.perf_counter()
        call()
        return [time.perf_counter() - started]
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    torch.cuda._sleep(20_000_000)  # the launches queue up behind this, so that none waits for Python
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes read and written in a second by a copy on the device."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    sink = torch.empty_like(source)
    return 2 * size / statistics.median(timed(lambda: sink.copy_(source), device))


# ---------------------------------------------------------------- words


def machine() -> dict[str, object]:
    import triton

    card = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {
        "device": card,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def show(dtype: str, case: dict[str, object]) -> None:
    print(f"\n{dtype}  N {case['num_tokens']}  V {case['vocab']}")
    for name in ("log_prob_error", "entropy_error", "gradient_error", "repeats_bit_for_bit"):
        print(f"  {name:22s} {case[name]:.3g}" if "error" in name else f"  {name:22s} {case[name]}")
    for variant in ("triton", "eager", "compile"):
        found = case.get(variant)
        if isinstance(found, dict):
            words = [
                f"{name} {statistics.median(x['seconds']) * 1e3:.3f} ms, {x['share']:.0%} of a copy"
                for name, x in found.items()
            ]
            print(f"  {variant:22s} " + "; ".join(words))
        elif found is not None:
            print(f"  {variant:22s} {found}")


def write(result: dict[str, object], out: Path | None) -> None:
    card = str(result["machine"]["device"]).lower().replace(" ", "-")  # type: ignore[index]
    path = out or ROOT / "benchmarks" / "results" / card / "ops_gpu.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nraw numbers  {path}")


if __name__ == "__main__":
    sys.exit(main())
