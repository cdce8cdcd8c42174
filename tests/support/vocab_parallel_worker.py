"""One rank of a vocabulary-parallel group: ``python vocab_parallel_worker.py RANK SIZE FOLDER``.

FOLDER holds ``inputs.npz`` and receives ``rank<N>.npz``; ``widths`` says how many columns each rank has.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megaent.ops import linear_logprob_entropy, logprob_entropy


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    inputs = {name: torch.from_numpy(value) for name, value in np.load(folder / "inputs.npz").items()}
    stop = int(inputs["widths"][: rank + 1].sum())
    start = stop - int(inputs["widths"][rank])
    hidden = inputs["hidden"].requires_grad_()
    weight = inputs["weight"][start:stop].clone().requires_grad_()
    logits = inputs["logits"][:, start:stop].clone().requires_grad_()
    options: dict[str, Any] = {
        "temperature": 0.8,
        "vocab_start": start,
        "vocab_size": int(inputs["vocab_size"]),
        "ignore_index": -100,
        "group": dist.group.WORLD,
    }
    from_logits = logprob_entropy(logits, inputs["target"], **options)
    from_hidden = linear_logprob_entropy(hidden, weight, inputs["target"], workspace_bytes=4096, **options)
    for result in (from_logits, from_hidden):
        loss = (inputs["cotangents"][0] * result.log_prob + inputs["cotangents"][1] * result.entropy).sum()
        loss.backward()
    assert logits.grad is not None
    assert weight.grad is not None
    assert hidden.grad is not None
    dist.all_reduce(hidden.grad)
    np.savez(
        folder / f"rank{rank}.npz",
        log_prob=from_logits.log_prob.detach().numpy(),
        entropy=from_logits.entropy.detach().numpy(),
        linear_log_prob=from_hidden.log_prob.detach().numpy(),
        linear_entropy=from_hidden.entropy.detach().numpy(),
        dz=logits.grad.numpy(),
        dw=weight.grad.numpy(),
        dh=hidden.grad.numpy(),
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
