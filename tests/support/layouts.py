"""Rollouts, jobs and truth of the layout tests, shared with the check of a card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from support.plain_lm import PlainExtra, PlainModel, PlainResponse, PlainResult, plain_grpo

LAYOUTS = {
    "tp1": (1, {}),
    "tp2": (2, {"tp": 2}),
    "tp2_sp": (2, {"tp": 2, "sequence_parallel": True}),
    "pp2": (2, {"pp": 2}),
    "pp2_vpp2": (2, {"pp": 2, "vpp": 2}),
    "pp2_uneven": (2, {"pp": 2, "first_layers": 1}),
    "cp2": (2, {"cp": 2}),
    "dp2": (2, {}),
    "tp2_pp2": (4, {"tp": 2, "pp": 2}),
    "tp2_pp2_sp": (4, {"tp": 2, "pp": 2, "sequence_parallel": True}),
    "tp2_cp2_sp": (4, {"tp": 2, "cp": 2, "sequence_parallel": True}),
    "pp2_cp2": (4, {"pp": 2, "cp": 2}),
    "dp2_tp2_sp": (4, {"tp": 2, "sequence_parallel": True}),
    "dp2_pp2": (4, {"pp": 2}),
    "dp2_cp2": (4, {"cp": 2}),
}
# The same with the optimizer's state shared out over the replicas.
SHARED_OUT = {f"{name}_do": LAYOUTS[name] for name in ("dp2", "dp2_tp2_sp", "dp2_pp2", "dp2_cp2")}
EVERY = LAYOUTS | SHARED_OUT
_TP2_SP = {"tp": 2, "sequence_parallel": True}
EXPERT_LAYOUTS = {
    "tp1": (1, {}),
    "dp2": (2, {}),
    "ep2": (2, {"ep": 2}),
    "tp2_ep2": (2, _TP2_SP | {"ep": 2}),
    "tp2_etp2": (2, _TP2_SP | {"etp": 2}),
    "cp2_ep2": (2, {"cp": 2, "ep": 2}),
    "ep4": (4, {"ep": 4}),
    "dp2_ep2": (4, {"ep": 2}),
    "dp2_tp2_ep2": (4, _TP2_SP | {"ep": 2}),
    "dp2_tp2_etp2": (4, _TP2_SP | {"etp": 2}),
    "pp2_ep2": (4, {"pp": 2, "ep": 2}),
}
DEFAULT = {"tp": 1, "pp": 1, "vpp": None, "cp": 1, "sequence_parallel": False, "ep": 1, "etp": 1}
DEFAULT |= {"first_layers": None, "last_layers": None}
EVEN, UNEQUAL, EMPTY = [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]


def rollouts() -> list[dict]:
    """Four groups of three responses of unequal lengths; one response of a single token."""
    generator = torch.Generator().manual_seed(11)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 100, (count,), generator=generator).tolist()

    groups = [
        {
            "prompt": tokens(3 + i),
            "responses": [tokens(4 + 5 * j + i) for j in range(3)],
            "rewards": [1.0, 0.0, 0.25 * i],
        }
        for i in range(4)
    ]
    groups[2]["responses"][1] = tokens(1)
    return groups


GROUPS = rollouts()
FP32 = {"dtype": "float32", "steps": 3, "minibatches": 2, "lr": 1e-3, "eps": 1e-5, "clip_grad": 1.0}
FP64 = {"dtype": "float64", "steps": 1, "minibatches": 2, "lr": 1e-3, "eps": 1e-8, "clip_grad": 0.0}
# Between them every kind of piece that a layout could break: sums over responses and over the batch,
# global order statistics, segments shared by siblings, random candidates, terms to both anchors.
METHODS = {
    "gspo": {"gspo": {}},
    "less_kl_cov_tis": {"less": {"min_length": 2}, "kl_cov": {"fraction": 0.2}, "tis": {"limit": 1.1}},
    "sent_whitened": {"sent": {"stages": 1, "cov_ratio": 0.3}, "reinforce_pp": {}},
    "archer_forking": {"archer": {}, "forking_tokens": {"fraction": 0.5}},
    "siren_stare_repo": {"siren": {"anchor": 0.5}, "stare": {"target": 9.0}, "repo": {}},
    "steer_cispo_bonus": {"steer": {}, "cispo": {}, "entropy_bonus": {"coef": 0.01}},
}
METHOD_LAYOUTS = ("tp1", "pp2_vpp2", "cp2", "dp2", "tp2_pp2_sp", "dp2_cp2")
METHOD_STEPS = FP64 | {"steps": 2}
LIMIT_S = 900.0  # four processes on two busy cores take minutes
COMMON = {"groups": GROUPS, "temperature": 0.8, "microbatch_tokens": 40, "kept_graphs_gib": 1.0}


def job(
    name: str, precision: dict, folder: Path, out: Path, *, holders: list[int] = EVEN, **more: object
) -> dict:
    layout = DEFAULT | (EVERY | EXPERT_LAYOUTS)[name][1]
    where = {"layout": layout, "holders": holders, "folder": str(folder), "out": str(out)}
    where["distributed_optimizer"] = name in SHARED_OUT
    return COMMON | precision | where | {"share_prompts": layout["cp"] == 1} | more


def launch(jobs: list[dict], num_processes: int, folder: Path, *, worker: str = "actor_worker.py") -> None:
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(num_processes),
    ]
    torchrun = subprocess.Popen(
        [*command, str(Path(__file__).with_name(worker)), str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=_environment(),
    )
    try:
        said, _ = torchrun.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        # SIGTERM, which torchrun passes on: killed, it leaves workers behind that slow down every later test.
        torchrun.terminate()
        said, _ = torchrun.communicate(timeout=60)
        raise AssertionError(
            f"{len(jobs)} jobs on {num_processes} ran over {LIMIT_S} s: {said[-4000:]}"
        ) from None
    assert torchrun.returncode == 0, said[-8000:]


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONWARNINGS": "ignore"}


def reference(
    folder: Path,
    precision: dict,
    *,
    groups: list[dict] = GROUPS,
    kind: type[PlainModel] = PlainModel,
    extra: PlainExtra | None = None,
) -> PlainResult:
    responses = [
        PlainResponse(prompt=group["prompt"], tokens=tokens, reward=reward, group=index)
        for index, group in enumerate(groups)
        for tokens, reward in zip(group["responses"], group["rewards"], strict=True)
    ]
    # The truth of fp32 runs is computed in fp64, so that its own rounding does not count.
    model = kind.load(folder, torch.float64)
    return plain_grpo(
        model,
        responses,
        steps=precision["steps"],
        minibatches=precision["minibatches"],
        temperature=COMMON["temperature"],
        lr=precision["lr"],
        eps=precision["eps"],
        clip_grad=precision["clip_grad"],
        extra=extra,
    )


def differences(found: dict, truth: PlainResult) -> dict[str, float]:
    assert set(found["weights"]) == set(truth.weights)
    return {
        "log_prob": max(
            float((a - b).abs().max()) for a, b in zip(found["log_prob"], truth.log_prob, strict=True)
        ),
        "entropy": max(
            float((a - b).abs().max()) for a, b in zip(found["entropy"], truth.entropy, strict=True)
        ),
        "loss": max(abs(a - b) for a, b in zip(found["loss"], truth.loss, strict=True)),
        "norm": max(abs(a / b - 1) for a, b in zip(found["norm"], truth.norm, strict=True)),
        "gradient": max(float((found["gradients"][n] - g).abs().max()) for n, g in truth.gradients.items()),
        "weight": max(float((found["weights"][n] - w).abs().max()) for n, w in truth.weights.items()),
    }
