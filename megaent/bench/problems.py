"""What is measured: rows of logits, or hidden states and an output weight, as a policy makes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.bench.shapes import Shape

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Problem:
    path: str  # "logits" or "linear"
    inputs: tuple[Tensor, ...]  # logits [N, V]; or hidden [N, D], weight [V, D]
    target: Tensor  # [N]
    cotangents: Tensor  # [2, N] fp32, of log_prob and entropy

    @property
    def flops(self) -> float:
        """Of the matrix product that makes the logits; 0 where they are given."""
        if self.path == "logits":
            return 0.0
        hidden_ND, weight_VD = self.inputs
        return 2.0 * hidden_ND.shape[0] * weight_VD.shape[0] * weight_VD.shape[1]

    @property
    def bytes(self) -> float:
        """Of the logits as they come; 0 where they need not exist."""
        return float(self.inputs[0].nbytes) if self.path == "logits" else 0.0


def make_problem(path: str, shape: Shape, num_rows: int, dtype: str, device: str) -> Problem:
    """Gaussian logits of deviation 3; in three rows of five the target leads by 20 to 30, as most do."""
    rng = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.empty(size, device=device).normal_(generator=rng)

    target_N = torch.randint(shape.vocab_size, (num_rows,), device=device, generator=rng)
    is_peaked_N = torch.rand(num_rows, device=device, generator=rng) < 0.6
    lead_N = torch.where(is_peaked_N, 20 + 10 * torch.rand(num_rows, device=device, generator=rng), 0.0)
    if path == "logits":
        logits_NV = normal(num_rows, shape.vocab_size).mul_(3)
        logits_NV[torch.arange(num_rows, device=device), target_N] += lead_N
        inputs = (logits_NV.to(DTYPES[dtype]),)
    else:
        # A row of the weight is 3 long or nearly so: its product with the noise deviates by 3.
        weight_VD = normal(shape.vocab_size, shape.hidden_size).mul_(3 / shape.hidden_size**0.5)
        hidden_ND = normal(num_rows, shape.hidden_size) + weight_VD[target_N] * (lead_N / 9)[:, None]
        inputs = (hidden_ND.to(DTYPES[dtype]), weight_VD.to(DTYPES[dtype]))
    return Problem(path, inputs, target_N, normal(2, num_rows))
