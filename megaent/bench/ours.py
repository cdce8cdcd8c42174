"""Our backends, and beside them torch as it is usually written, compiled or not."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from megaent.bench.contender import Compute, Contender
from megaent.bench.peers import linear_peers, logits_peers
from megaent.ops import linear_logprob_entropy, logprob_entropy
from megaent.ops.backend import available_backends


def contenders(path: str, device: str, dtype: torch.dtype, workspace_bytes: int | None) -> list[Contender]:
    """Torch as it is usually written comes first: its errors are the measure of the others'."""
    if path == "logits":
        return [*_torch(eager), *_ours_from_logits(device, dtype), *logits_peers(device)]
    chunked = Contender("torch linear_cross_entropy", _chunked, has_entropy=False, is_sum=True)
    ours = _ours_from_hidden(device, dtype, workspace_bytes)
    return [*_torch(eager_linear), chunked, *ours, *linear_peers(device)]


def our_backends(device: str, dtype: torch.dtype) -> list[str]:
    """Of those installed, the ones made for the device; the reference where there is no other."""
    wanted = ("cpu",) if device == "cpu" else ("triton", "cuda")
    serves = device != "cpu" or dtype != torch.float16
    return [name for name in wanted if name in available_backends() and serves] or ["reference"]


# ---------------------------------------------------------------- torch


def eager(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    log_p_NV = torch.log_softmax(logits_NV.float(), dim=1)
    return log_p_NV.gather(1, target_N[:, None])[:, 0], -(log_p_NV.exp() * log_p_NV).sum(1)


def eager_linear(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    return eager(hidden_ND @ weight_VD.T, target_N)


def _chunked(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor) -> tuple[Tensor]:
    """Its gradients are made in the forward pass, chunk by chunk."""
    options = torch.nn.LinearCrossEntropyOptions()
    return (-F.linear_cross_entropy(hidden_ND, weight_VD, target_N, reduction="sum", options=options),)


def _torch(compute: Compute) -> list[Contender]:
    torch.compiler.reset()  # it gives up on a function that it has compiled for many sizes
    compiled = torch.compile(compute, dynamic=False)
    return [Contender("torch eager", compute), Contender("torch.compile", compiled)]


# ---------------------------------------------------------------- ours


def _ours_from_logits(device: str, dtype: torch.dtype) -> list[Contender]:
    made = []
    for backend in our_backends(device, dtype):
        plain = functools.partial(_from_logits, backend=backend)
        over = functools.partial(_from_logits, backend=backend, overwrite_logits=True)
        made.append(Contender(f"megaent {backend}", plain, is_ours=True))
        in_place = Contender(f"megaent {backend}, in place", over, overwrites=True, trains_only=True)
        made.append(in_place._replace(is_ours=True))
    return made


def _from_logits(logits_NV: Tensor, target_N: Tensor, **options) -> tuple[Tensor, Tensor]:
    result = logprob_entropy(logits_NV, target_N, **options)
    return result.log_prob, result.entropy


def _ours_from_hidden(device: str, dtype: torch.dtype, workspace_bytes: int | None) -> list[Contender]:
    made = []
    for backend in our_backends(device, dtype):
        for mode, num_products in (("recompute", 4), ("store", 3)):
            options = {"backend": backend, "mode": mode, "workspace_bytes": workspace_bytes}
            compute = functools.partial(_from_hidden, **options)
            name = f"megaent {backend}, {mode}"
            made.append(Contender(name, compute, is_ours=True, num_products=num_products))
    return made


def _from_hidden(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, **options) -> tuple[Tensor, Tensor]:
    result = linear_logprob_entropy(hidden_ND, weight_VD, target_N, **options)
    return result.log_prob, result.entropy
