"""One of four ranks that split vocabularies: ``python vocab_parallel_worker.py RANK FOLDER``.

FOLDER holds ``inputs.npz`` and receives ``rank<N>.npz``. For every case ``widths/<case>`` says how many
columns each rank of it has; a case of fewer ranks leaves the last ones out. Results are named
``<case>/<type>/<op>/<quantity>``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from megaent.ops import TokenStatistics, linear_logprob_entropy, logprob_entropy
from megaent.ops.token_statistics import EXTRAS

SIZE = 4
TEMPERATURE = 0.8
VOCAB = 38  # what lies behind it is padding
WORKSPACE_BYTES = 4096
NUCLEUS_P = 0.7
TYPES = {"float64": torch.float64, "float32": torch.float32}

Named = dict[str, Tensor]


def results(found: TokenStatistics, weights: Tensor, leaves: Named) -> Named:
    """Every field of ``found``, and the gradients of those that have one, weighed with ``weights``."""
    assert found.kl is not None
    assert found.nucleus_entropy is not None
    outputs = found.log_prob, found.entropy, found.kl, found.nucleus_entropy
    grads = torch.autograd.grad(outputs, list(leaves.values()), list(weights.to(found.kl.dtype)))
    fields = {name: value.detach() for name, value in found._asdict().items() if value is not None}
    return fields | {f"d_{name}": grad for name, grad in zip(leaves, grads, strict=True)}


def both_ops(inputs: Named, columns: slice, **options: Any) -> Iterator[tuple[str, Named]]:
    """(op, results) for the columns of a shard."""
    options |= {"temperature": TEMPERATURE, "vocab_size": VOCAB, "ignore_index": -100, "extras": EXTRAS}
    options["nucleus_p"] = NUCLEUS_P
    logits = inputs["logits"][:, columns].clone().requires_grad_()
    reference = inputs["reference"][:, columns].clone()
    found = logprob_entropy(logits, inputs["target"], reference_logits=reference, **options)
    yield "logits", results(found, inputs["weights"], {"logits": logits})
    hidden = inputs["hidden"].clone().requires_grad_()
    weight = inputs["weight"][columns].clone().requires_grad_()
    other = {"reference_hidden": inputs["hidden"], "reference_weight": inputs["other_weight"][columns]}
    for mode in ("recompute", "store"):
        found = linear_logprob_entropy(
            hidden, weight, inputs["target"], mode=mode, workspace_bytes=WORKSPACE_BYTES, **other, **options
        )
        yield mode, results(found, inputs["weights"], {"hidden": hidden, "weight": weight})


def in_type(inputs: Named, dtype: torch.dtype) -> Named:
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=SIZE,
        timeout=timedelta(seconds=240),
    )
    inputs = {name: torch.from_numpy(value) for name, value in np.load(folder / "inputs.npz").items()}
    groups: dict[int, ProcessGroup] = {size: dist.new_group(list(range(size))) for size in (2, 3, 4)}
    found: dict[str, np.ndarray] = {}
    for name, widths in inputs.items():
        case = name.removeprefix("widths/")
        if case == name or rank >= widths.numel():
            continue
        stop = int(widths[: rank + 1].sum())
        columns, group = slice(stop - int(widths[rank]), stop), groups[widths.numel()]
        for type_name, dtype in TYPES.items():
            shard = {"vocab_start": columns.start, "group": group}
            for op, values in both_ops(in_type(inputs, dtype), columns, **shard):
                if "d_hidden" in values:
                    dist.all_reduce(values["d_hidden"], group=group)
                found |= {f"{case}/{type_name}/{op}/{key}": value.numpy() for key, value in values.items()}
    np.savez(folder / f"rank{rank}.npz", **found)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
