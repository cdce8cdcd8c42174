"""Runs the Megatron actor in the layouts of a job file, under torchrun; rank 0 writes what came out.

A job: ``{"folder": …, "out": …, "dtype": …, "layout": {…}, "holders": […], "groups": […], …}``.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout, init_parallel
from megaent.actor.precision import PRECISIONS
from megaent.actor.recompute import RecomputeOptions
from megaent.actor.sizes import Sizes
from megaent.experience.pack import assign_minibatches, pack
from megaent.loop.dealing import deal_groups
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.objective.parts import parts
from megaent.objective.seen import Seen
from megaent.types import Grade, Group, Prompt, Response


def build_groups(job: dict, layout: Layout) -> list[Group]:
    """This replica's groups; ``holders[i]`` is the data-parallel rank that has group i."""
    mine = []
    for index, group in enumerate(job["groups"]):
        if job["holders"][index] % layout.dp != layout.dp_rank:
            continue
        responses = tuple(
            Response(tokens=tuple(r), log_prob=(-1.0,) * len(r), finish="stop", version=0)
            for r in group["responses"]
        )
        mine.append(
            Group(
                index=index,
                prompt=Prompt(id=str(index), tokens=tuple(group["prompt"]), text="", answer=""),
                responses=responses,
                grades=tuple(Grade(reward=reward, correct=reward > 0) for reward in group["rewards"]),
            )
        )
    return mine


def run_all(jobs: list[dict]) -> None:
    """Jobs of one layout share its process groups: making them costs more than the jobs."""

    def key(job: dict) -> str:
        return json.dumps([job["layout"], job.get("device", "cpu")])

    for _, alike in groupby(sorted(jobs, key=key), key=key):
        same = list(alike)
        device = torch.device(same[0].get("device", "cpu"))
        layout = init_parallel(Sizes(**same[0]["layout"]), device=device, timeout_s=300, seed=1)
        for job in same:
            run(job, layout)
        # The process group stays: one torchrun rendezvous serves every layout of the file.
        parallel_state.destroy_model_parallel()


def run(job: dict, layout: Layout) -> None:
    actor = MegatronActor(
        Path(job["folder"]),
        layout,
        ActorOptions(
            dtype=job["dtype"],
            microbatch_tokens=job["microbatch_tokens"],
            share_prompts=job["share_prompts"],
            kept_graphs_gib=job["kept_graphs_gib"],
            recompute=RecomputeOptions(**job.get("recompute", {})),
            precision=PRECISIONS[job.get("precision", "full")](**job.get("precision_options", {})),
            distributed_optimizer=job.get("distributed_optimizer", False),
        ),
        AdamOptions(lr=job["lr"], eps=job["eps"], clip_grad=job["clip_grad"]),
    )
    groups = build_groups(job, layout)
    if job.get("deal") and layout.is_leader:
        groups = deal_groups(groups, layout, actor.work, job["minibatches"])
    batch = layout.share(pack(groups) if layout.is_leader else None)
    method = build_method(job.get("method", {"grpo": {}})).phases[0].method
    indices = layout.gather_over_replicas(batch.index.tolist())
    minibatch_S = assign_minibatches(batch.index, indices, job["minibatches"])[batch.group]
    batch = replace(batch, minibatch=minibatch_S)
    coefs = {name: value for c in method.controllers for name, value in c.coefs(c.start()).items()}
    if method.needs_reference:
        actor.keep_reference()
    log_prob, entropy, loss, norm, experts, norms = [], [], [], [], [], {}
    for _ in range(job["steps"]):
        batch = actor.score(
            batch,
            temperature=job["temperature"],
            with_reference=method.needs_reference,
            check=torch.arange(0, batch.num_tokens, 2),
            nucleus_p=method.loss.nucleus_p,
        )
        log_prob.append(collect(batch, batch.log_prob_old, layout))
        entropy.append(collect(batch, batch.entropy, layout))
        seen = Seen(
            batch=batch,
            population=layout,
            minibatch_S=minibatch_S,
            num_minibatches=job["minibatches"],
            coefs=coefs,
        )
        terms, _ = estimate(method, seen)
        if job.get("parts"):
            norms = {
                name: actor.gradient_norm(batch, terms, part, temperature=job["temperature"])
                for name, part in parts(method.loss).items()
            }
        metrics = actor.update(
            batch, terms, method.loss, temperature=job["temperature"], num_minibatches=job["minibatches"]
        )
        loss.append(metrics["loss"])
        norm.append(metrics["grad/norm"])
        experts.append({name: value for name, value in metrics.items() if name.startswith("experts/")})
    weights = {name: value.clone() for name, value in actor.named_weights()}
    gradients = export_gradients(actor)
    held = layout.gather_over_replicas([len(batch.prompts)])
    if layout.rank == 0:
        result = {"held": held, "log_prob": log_prob, "entropy": entropy, "loss": loss, "norm": norm}
        result |= {"experts": experts, "norms_of_parts": norms}
        weights, gradients = ({n: v.cpu() for n, v in part.items()} for part in (weights, gradients))
        torch.save(result | {"weights": weights, "gradients": gradients}, job["out"])


def collect(batch, values, layout: Layout) -> torch.Tensor:
    """One number a token of the global batch, in prompt order."""
    mine = [
        (int(batch.index[batch.group[response]]), part.tolist())
        for response, part in enumerate(values.split(batch.length.tolist()))
    ]
    everyone = sorted(layout.gather_over_replicas(mine), key=lambda item: item[0])
    return torch.tensor([value for _, part in everyone for value in part], dtype=torch.float64)


def export_gradients(actor: MegatronActor) -> dict[str, torch.Tensor]:
    """The gradients of the last optimizer step under their Hugging Face names, through the same export."""
    if actor.options.distributed_optimizer:
        gather_gradients(actor)
    for model in actor.models:
        for parameter in model.parameters():
            parameter.data = parameter.main_grad.detach().to(parameter.dtype)
    return {name: value.clone() for name, value in actor.named_weights()}


def gather_gradients(actor: MegatronActor) -> None:
    """Each replica was left with the sums of its own shard of every bucket."""
    for chunk in actor.chunks:
        for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]:
            group = buffer.data_parallel_group
            for bucket in buffer.buckets:
                shards = list(bucket.grad_data.chunk(group.size()))
                dist.all_gather(shards, shards[group.rank()].clone(), group=group)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_all(json.loads(Path(sys.argv[1]).read_text()))
    sys.stdout.flush()
    # Megatron leaves non-daemon threads behind; the results are on the disk.
    os._exit(0)
