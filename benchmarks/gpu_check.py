"""One card, a few minutes: is the actor right there, does the demonstration learn the same, how fast is it.

    ./scripts/gpu_check              needs a CUDA card; writes benchmarks/results/<card>/gpu_check.json
    ./scripts/gpu_check --rehearse   the same program on a CPU with a tiny model; writes nothing

Correctness first: without it no speed is printed. Peak rates are dense bf16, from the makers' sheets;
the share of them is model FLOP utilisation, 6 FLOP a parameter and token for an update (the embedding's
rows are looked up, not multiplied) plus attention's, 2 and so on for scoring.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")]

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}


@dataclass(frozen=True)
class Shape:
    """A Qwen2 of these sizes with random weights."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    vocab_size: int
    responses: int
    prompt_tokens: int
    response_tokens: int


HALF_B = Shape(896, 24, 14, 2, 4864, 151936, 64, 128, 896)
TINY = Shape(64, 2, 4, 2, 176, 512, 8, 16, 48)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, tiny, nothing written")
    parser.add_argument("--out", type=Path, help="file of the raw numbers")
    options = parser.parse_args()
    missing = what_is_missing(options.rehearse)
    if missing:
        print("gpu_check did not run; missing: " + "; ".join(missing), file=sys.stderr)
        return 3
    device = "cpu" if options.rehearse else "cuda"
    with tempfile.TemporaryDirectory() as folder:
        result = {"machine": machine(), "parity": check_parity(Path(folder), device)}
        show("parity with plain torch, three fp32 steps", result["parity"])
        if not result["parity"]["passed"]:
            print("the actor is wrong on this device; nothing was timed", file=sys.stderr)
            return 1
        result["demonstration"] = compare_demonstration(Path(folder), device)
        show("ten demonstration steps", result["demonstration"])
        result["throughput"] = measure(Path(folder), TINY if options.rehearse else HALF_B, device)
        show("update and score", result["throughput"])
    if not options.rehearse:
        write(result, options.out)
    return 0 if result["demonstration"]["passed"] else 1


def what_is_missing(is_rehearsal: bool) -> list[str]:
    missing = []
    if not is_rehearsal and not torch.cuda.is_available():
        missing.append(
            f"a CUDA device that torch {torch.__version__} can see (nvidia-smi shows what the driver sees)"
        )
    if is_rehearsal and torch.cuda.is_available():
        missing.append("a process without CUDA: rehearse with CUDA_VISIBLE_DEVICES= in the environment")
    for module in ("megatron.core", "transformers", "hydra", "safetensors", "rich", "math_verify"):
        try:
            __import__(module)
        except ImportError as error:
            missing.append(f"the module {module} ({error}); pip install 'megaent[train]'")
    return missing


def machine() -> dict[str, object]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu"
    return {
        "device": card,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": commit or os.environ.get("MEGAENT_COMMIT", "unknown"),
        "date": time.strftime("%Y-%m-%d"),
    }


# ---------------------------------------------------------------- correctness


def check_parity(folder: Path, device: str) -> dict[str, object]:
    """The actor against an independent GRPO in plain torch, as the layout tests do it."""
    from support.layouts import FP32, differences, job, launch, reference
    from support.tiny_hf import save_tiny

    model = save_tiny(folder / "tiny", family="qwen2", tie=True)
    shared = device == "cpu"
    launch([job("tp1", FP32, model, folder / "parity.pt", device=device, share_prompts=shared)], 1, folder)
    found = differences(torch.load(folder / "parity.pt", weights_only=True), reference(model, FP32))
    bounds = {"log_prob": 1e-5, "weight": 1e-5} if device == "cpu" else {"log_prob": 1e-4, "weight": 1e-4}
    found.pop("gradient")  # the actor's are clipped, the reference's are not
    return found | {"passed": all(found[name] <= bound for name, bound in bounds.items())}


def compare_demonstration(folder: Path, device: str) -> dict[str, object]:
    """Ten steps here and, without the card, on the CPU; the first must agree to rounding."""
    here, there = (run_demonstration(folder / name, name) for name in (device, "cpu-again"))
    names = ("reward/mean", "entropy/mean", "loss", "mismatch/mean_abs", "time/step_s")
    first = {f"first {name}": (here[0][name], there[0][name]) for name in names}
    passed = (
        abs(here[0]["entropy/mean"] - there[0]["entropy/mean"]) <= 1e-3
        and abs(here[0]["reward/mean"] - there[0]["reward/mean"]) <= 0.02
        and len(here) == len(there) == 10
    )
    last = {"last reward/mean": (here[-1]["reward/mean"], there[-1]["reward/mean"])}
    return first | last | {"passed": passed}


def run_demonstration(run: Path, name: str) -> list[dict[str, float]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path[:3]), "PYTHONWARNINGS": "ignore"}
    if name != "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    overrides = ["experiment=demo", "steps=10", "evaluate.at_start=false", f"run.dir={run}"]
    subprocess.run(
        [sys.executable, "-m", "megaent", "train", *overrides], env=environment, check=True, timeout=240
    )
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- speed


def measure(folder: Path, shape: Shape, device: str) -> dict[str, object]:
    """Tokens a second, share of the peak and peak memory of scoring and of one update, bf16."""
    from megaent.actor.megatron_actor import ActorOptions, MegatronActor
    from megaent.actor.optimizer import AdamOptions
    from megaent.actor.parallel import close_parallel, init_parallel, resolve_device
    from megaent.actor.sizes import Sizes
    from megaent.methods import build_method
    from megaent.objective.estimate import estimate
    from megaent.objective.seen import Seen
    from megaent.types import Alone

    layout = init_parallel(Sizes(), device=resolve_device(device), timeout_s=120, seed=0)
    actor = MegatronActor(
        write_model(folder / "random", shape),
        layout,
        ActorOptions(dtype="bfloat16", microbatch_tokens=16384),
        AdamOptions(lr=1e-6),
    )
    batch, method = random_batch(shape), build_method({"grpo": {}}).phases[0].method
    seconds: dict[str, list[float]] = {"score": [], "update": []}
    for _ in range(4):
        batch = timed(seconds["score"], lambda b=batch: actor.score(b, temperature=1.0))
        seen = Seen(
            batch=batch, population=Alone(), minibatch_S=torch.zeros_like(batch.group), num_minibatches=1
        )
        terms, _ = estimate(method, seen)
        timed(
            seconds["update"],
            lambda b=batch, t=terms: actor.update(b, t, method.loss, temperature=1.0, num_minibatches=1),
        )
    parameters = sum(p.numel() for model in actor.models for p in model.parameters())
    close_parallel()
    return report(shape, seconds, parameters)


def timed(seconds: list[float], call):
    synchronize()
    started = time.perf_counter()
    result = call()
    synchronize()
    seconds.append(time.perf_counter() - started)
    return result


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(shape: Shape, seconds: dict[str, list[float]], parameters: int) -> dict[str, object]:
    tokens = shape.responses * (shape.prompt_tokens + shape.response_tokens - 1)
    length = shape.prompt_tokens + shape.response_tokens
    attention = 2 * shape.num_layers * shape.hidden_size * length  # forward FLOP a token, causal
    forward = 2 * parameters + attention
    peak = next((p for name, p in PEAK_TFLOPS.items() if name in str(machine()["device"])), None)
    result: dict[str, object] = {"shape": asdict(shape), "parameters": parameters, "tokens": tokens}
    for verb, passes in (("score", 1), ("update", 3)):
        # The first run of each pays for compilation and allocation.
        median = sorted(seconds[verb][1:])[len(seconds[verb][1:]) // 2]
        tflops = passes * forward * tokens / median / 1e12
        result[verb] = {
            "seconds": seconds[verb],
            "tokens_per_s": tokens / median,
            "tflops": tflops,
            "mfu": tflops / peak if peak else None,
        }
    if torch.cuda.is_available():
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return result


def write_model(folder: Path, shape: Shape) -> Path:
    """A Hugging Face folder of random bf16 weights, without building the model first."""
    from safetensors.torch import save_file

    folder.mkdir()
    width = shape.hidden_size // shape.num_heads
    config = {
        "model_type": "qwen2",
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    kv = shape.num_kv_heads * width
    d, f = shape.hidden_size, shape.intermediate_size

    def random(*size: int) -> torch.Tensor:
        return (torch.randn(size, generator=generator) * 0.02).to(torch.bfloat16)

    weights = {
        "model.embed_tokens.weight": random(shape.vocab_size, d),
        "model.norm.weight": torch.ones(d).bfloat16(),
    }
    for i in range(shape.num_layers):
        p = f"model.layers.{i}."
        for name, rows in (("q", d), ("k", kv), ("v", kv)):
            weights[f"{p}self_attn.{name}_proj.weight"] = random(rows, d)
            weights[f"{p}self_attn.{name}_proj.bias"] = random(rows)
        weights[p + "self_attn.o_proj.weight"] = random(d, d)
        weights[p + "mlp.gate_proj.weight"], weights[p + "mlp.up_proj.weight"] = random(f, d), random(f, d)
        weights[p + "mlp.down_proj.weight"] = random(d, f)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{p}{norm}.weight"] = torch.ones(d).bfloat16()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_batch(shape: Shape):
    """Groups of four responses of equal length, rewards 0 and 1."""
    from megaent.experience.pack import pack
    from megaent.types import Grade, Group, Prompt, Response

    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(0, shape.vocab_size, (count,), generator=generator).tolist())

    length = shape.response_tokens
    return pack(
        [
            Group(
                index=i,
                prompt=Prompt(id=str(i), tokens=tokens(shape.prompt_tokens), text="", answer=""),
                responses=tuple(
                    Response(tokens=tokens(length), log_prob=(-1.0,) * length, finish="stop", version=0)
                    for _ in range(4)
                ),
                grades=tuple(Grade(reward=float(k % 2), correct=k % 2 == 1) for k in range(4)),
            )
            for i in range(shape.responses // 4)
        ]
    )


# ---------------------------------------------------------------- words


def show(title: str, values: dict[str, object]) -> None:
    print(f"\n{title}")
    for name, value in values.items():
        if isinstance(value, dict):
            value = "  ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
            )
        elif isinstance(value, tuple):
            value = "  ".join(f"{v:.6g}" for v in value)
        elif isinstance(value, float):
            value = f"{value:.4g}"
        print(f"  {name:28s} {value}")


def write(result: dict[str, object], out: Path | None) -> None:
    card = str(result["machine"]["device"]).lower().replace(" ", "-")  # type: ignore[index]
    path = out or ROOT / "benchmarks" / "results" / card / "gpu_check.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nraw numbers  {path}")


if __name__ == "__main__":
    sys.exit(main())
