"""Builds the Megatron actor in the layouts of a job file, under torchrun, lets its optimizer step once on
zero gradients and writes what each rank then holds, in bytes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from megatron.core import parallel_state

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout, init_parallel
from megaent.actor.sizes import Sizes


def run(job: dict) -> None:
    layout = init_parallel(Sizes(**job["layout"]), device=torch.device("cpu"), timeout_s=300, seed=1)
    options = ActorOptions(dtype=job["dtype"], distributed_optimizer=job["distributed_optimizer"])
    actor = MegatronActor(Path(job["folder"]), layout, options, AdamOptions(lr=0.0))
    held = layout.gather_everywhere(measured(actor, layout))
    if layout.rank == 0:
        Path(job["out"]).write_text(json.dumps(held))
    parallel_state.destroy_model_parallel()


def measured(actor: MegatronActor, layout: Layout) -> dict[str, int]:
    for chunk in actor.chunks:
        chunk.zero_grad_buffer()
    actor.optimizer.step()
    return {
        "stage": layout.pp_group.rank(),
        "weights": sum(num_bytes(p) for model in actor.models for p in model.parameters()),
        "gradients": sum(
            num_bytes(buffer.grad_data)
            for chunk in actor.chunks
            for buffer in (*chunk.buffers, *chunk.expert_parallel_buffers)
        ),
        "optimizer": sum(map(num_bytes, state_tensors(actor))),
    }


def state_tensors(actor: MegatronActor) -> list[torch.Tensor]:
    """Adam's moments, and the fp32 masters of bf16 weights; not its scalar step counts."""
    optimizer = actor.optimizer
    found = []
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        moments = [value for state in part.optimizer.state.values() for value in state.values()]
        found += [value for value in moments if torch.is_tensor(value) and value.dim()]
        for name in ("fp32_from_float16_groups", "shard_fp32_from_float16_groups"):
            found += [value for group in getattr(part, name, []) for value in group]
    return found


def num_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)
    sys.stdout.flush()
    os._exit(0)  # Megatron leaves non-daemon threads behind
