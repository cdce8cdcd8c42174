"""Saves and loads the actor's state in the layouts of a job file, under torchrun.

A job: ``{"folder": …, "dtype": …, "layout": {…}, "distributed_optimizer": …, "save": …}``, and if wanted
``steps`` of the optimizer, then a folder to ``load`` from, then ``more`` steps.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from megatron.core import parallel_state

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import init_parallel
from megaent.actor.sizes import Sizes


def run(job: dict) -> None:
    layout = init_parallel(Sizes(**job["layout"]), device=torch.device("cpu"), timeout_s=300, seed=1)
    options = ActorOptions(dtype=job["dtype"], distributed_optimizer=job["distributed_optimizer"])
    adam = AdamOptions(lr=1e-2, weight_decay=0.1, clip_grad=0.0)
    actor = MegatronActor(Path(job["folder"]), layout, options, adam)
    step(actor, job.get("steps", 0))
    if "load" in job:
        actor.load(Path(job["load"]))
    step(actor, job.get("more", 0))
    if layout.rank == 0:
        Path(job["save"]).mkdir(parents=True)
    layout.barrier()
    actor.save(Path(job["save"]))
    layout.barrier()
    parallel_state.destroy_model_parallel()


def step(actor: MegatronActor, times: int) -> None:
    """By gradients that are a function of each weight, so the same in every layout."""
    for _ in range(times):
        for chunk in actor.chunks:
            for parameter in chunk.parameters():
                gradient: torch.Tensor = parameter.main_grad  # pyright: ignore[reportAttributeAccessIssue]
                gradient.copy_(torch.cos(parameter.detach() * 50.0))
        actor.optimizer.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)
    sys.stdout.flush()
    os._exit(0)  # Megatron leaves non-daemon threads behind
