"""Who is measured on a path: torch as it is usually written, compiled or not, our backends, the peers."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from megaent.bench.contender import Compute, Contender
from megaent.bench.paths import OpPath
from megaent.bench.peers import linear_peers, logits_peers
from megaent.bench.usual import USUAL
from megaent.ops import linear_logprob_entropy, logprob_entropy
from megaent.ops.backend import available_backends


def contenders(path: OpPath, device: str, dtype: torch.dtype, workspace_bytes: int | None) -> list[Contender]:
    """Torch as it is usually written comes first: its errors are the measure of the others'."""
    usual, backends = _torch(USUAL[path.name]), our_backends(path, device, dtype)
    if path.from_hidden:
        chunked = Contender("torch linear_cross_entropy", _chunked, has_entropy=False, is_sum=True)
        return [*usual, chunked, *_ours_from_hidden(path, backends, workspace_bytes), *linear_peers(device)]
    # Nobody else has a path of its own to the KL or the extras.
    peers = logits_peers(device) if path.name == "logits" else []
    return [*usual, *_ours_from_logits(path, backends), *peers]


def our_backends(path: OpPath, device: str, dtype: torch.dtype) -> list[str]:
    """Of those installed, the ones made for the device; the reference where there is no other."""
    wanted = ("cpu",) if device == "cpu" else ("triton",) if path.has_reference else ("triton", "cuda")
    serves = device != "cpu" or dtype != torch.float16
    return [name for name in wanted if name in available_backends() and serves] or ["reference"]


# ---------------------------------------------------------------- torch


def _chunked(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor]:
    """Its gradients are made in the forward pass, chunk by chunk."""
    options = torch.nn.LinearCrossEntropyOptions()
    return (-F.linear_cross_entropy(hidden_ND, weight_VD, target_N, reduction="sum", options=options),)


def _torch(compute: Compute) -> list[Contender]:
    torch.compiler.reset()  # it gives up on a function that it has compiled for many sizes
    compiled = torch.compile(compute, dynamic=False)
    return [Contender("torch eager", compute), Contender("torch.compile", compiled)]


# ---------------------------------------------------------------- ours


def _ours_from_logits(path: OpPath, backends: list[str]) -> list[Contender]:
    made = []
    for backend in backends:
        plain = functools.partial(_from_logits, path, backend=backend)
        over = functools.partial(_from_logits, path, backend=backend, overwrite_logits=True)
        made.append(Contender(f"megaent {backend}", plain, is_ours=True))
        in_place = Contender(f"megaent {backend}, in place", over, overwrites=True, trains_only=True)
        made.append(in_place._replace(is_ours=True))
    return made


def _from_logits(
    path: OpPath, logits_NV: Tensor, target_N: Tensor, reference_NV: Tensor | None = None, **options
) -> tuple[Tensor, ...]:
    asked = {"extras": path.extras, "reference_logits": reference_NV}
    return path.of(logprob_entropy(logits_NV, target_N, **asked, **options))


def _ours_from_hidden(path: OpPath, backends: list[str], workspace_bytes: int | None) -> list[Contender]:
    made = []
    for backend in backends:
        for mode, num_products in (("recompute", 4), ("store", 3)):
            options = {"backend": backend, "mode": mode, "workspace_bytes": workspace_bytes}
            compute = functools.partial(_from_hidden, path, **options)
            name = f"megaent {backend}, {mode}"
            made.append(Contender(name, compute, is_ours=True, num_products=num_products))
    return made


def _from_hidden(
    path: OpPath, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, **options
) -> tuple[Tensor, ...]:
    return path.of(linear_logprob_entropy(hidden_ND, weight_VD, target_N, **options))
