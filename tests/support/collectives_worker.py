"""Counts the collectives of one step in the layouts of a job file; rank 0 of each world writes them."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

import torch
from megatron.core import parallel_state
from support.actor_worker import build_groups

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import init_parallel
from megaent.actor.sizes import Sizes
from megaent.experience.pack import pack
from megaent.loop.dealing import deal_groups, entries
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.objective.seen import Seen
from megaent.scale.collectives import Collectives


def run(job: dict) -> dict:
    layout = init_parallel(Sizes(**job["layout"]), device=torch.device("cpu"), timeout_s=120, seed=1)
    options = ActorOptions(
        dtype="float32", microbatch_tokens=1000, distributed_optimizer=job["distributed_optimizer"]
    )
    actor = MegatronActor(Path(job["folder"]), layout, options, AdamOptions(lr=1e-3, clip_grad=1.0))
    counted = {}

    def counting(name: str, call):
        with Collectives() as seen:
            result = call()
        counted[name] = seen.by_kind()
        return result

    groups = build_groups(job, layout)
    if layout.is_leader:
        groups = counting("deal", lambda: deal_groups(groups, layout, actor.work, 1))
    batch = counting("share", lambda: layout.share(pack(groups) if layout.is_leader else None))
    counting("entries", lambda: entries(batch, layout, actor.work))
    scored = counting("score", lambda: actor.score(batch, temperature=1.0))
    method = build_method({"grpo": {}}).phases[0].method
    minibatch_S = torch.zeros_like(batch.group)
    seen = Seen(batch=scored, population=layout, minibatch_S=minibatch_S, num_minibatches=1)
    terms, _ = counting("estimate", lambda: estimate(method, seen))
    counting("update", lambda: actor.update(scored, terms, method.loss, temperature=1.0, num_minibatches=1))
    counted["parameters"] = sum(p.numel() for model in actor.models for p in model.parameters())
    counted["tokens"] = batch.num_tokens
    prompt_S = [len(batch.prompts[group].tokens) for group in batch.group.tolist()]
    counted["read"] = sum(prompt_S) + batch.num_tokens - batch.num_responses
    parallel_state.destroy_model_parallel()
    return counted


def run_rank(jobs: list[dict], rank: int, world: int, port: int, out: Path) -> None:
    """In a process of its own, forked, so that torch and Megatron are imported once for all of them."""
    where = {"RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in where.items()}
    found = {job["name"]: run(job) for job in jobs}
    if rank == 0:
        out.write_text(json.dumps(found))
    os._exit(0)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def main(file: Path) -> None:
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    for world, jobs in json.loads(file.read_text()).items():
        port, out = free_port(), file.with_name(f"{world}.json")
        ranks = [
            fork.Process(target=run_rank, args=(jobs, rank, int(world), port, out))
            for rank in range(int(world))
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(200)
            if process.exitcode != 0:
                for other in ranks:
                    other.kill()
                sys.exit(f"a rank of {world} ended with {process.exitcode}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
