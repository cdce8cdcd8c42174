"""What is measured: rows of logits, or hidden states and an output weight, as a policy makes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.bench.paths import OpPath
from megaent.bench.shapes import Shape

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Problem:
    path: OpPath
    inputs: tuple[Tensor, ...]  # take a gradient: logits [N, V]; or hidden [N, D], weight [V, D]
    given: tuple[Tensor, ...]  # take none: target [N]; the reference's logits [N, V] on such a path
    cotangents: Tensor  # [num_trained, N] fp32

    @property
    def target(self) -> Tensor:
        return self.given[0]

    def rows(self, rows_K: Tensor) -> Problem:
        """The same for these tokens alone."""
        first, *rest = self.inputs
        given = tuple(x[rows_K] for x in self.given)
        return Problem(self.path, (first[rows_K], *rest), given, self.cotangents[:, rows_K])

    @property
    def logits(self) -> tuple[Tensor, ...]:
        """All [N, V] that must be read; none where they need not exist."""
        return () if self.path.from_hidden else (self.inputs[0], *self.given[1:])

    @property
    def flops(self) -> float:
        """Of the matrix product that makes the logits; 0 where they are given."""
        if not self.path.from_hidden:
            return 0.0
        hidden_ND, weight_VD = self.inputs
        return 2.0 * hidden_ND.shape[0] * weight_VD.shape[0] * weight_VD.shape[1]


def make_problem(path: OpPath, shape: Shape, num_rows: int, dtype: str, device: str) -> Problem:
    """Gaussian logits of deviation 3; in three rows of five the target leads by 20 to 30, as most do.

    A reference's logits are the policy's with noise of deviation 0.3, so that KL is some hundredths of a nat.
    """
    rng = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.empty(size, device=device).normal_(generator=rng)

    target_N = torch.randint(shape.vocab_size, (num_rows,), device=device, generator=rng)
    is_peaked_N = torch.rand(num_rows, device=device, generator=rng) < 0.6
    lead_N = torch.where(is_peaked_N, 20 + 10 * torch.rand(num_rows, device=device, generator=rng), 0.0)
    given = (target_N,)
    if path.from_hidden:
        # A row of the weight is 3 long or nearly so: its product with the noise deviates by 3.
        weight_VD = normal(shape.vocab_size, shape.hidden_size).mul_(3 / shape.hidden_size**0.5)
        hidden_ND = normal(num_rows, shape.hidden_size) + weight_VD[target_N] * (lead_N / 9)[:, None]
        inputs = (hidden_ND.to(DTYPES[dtype]), weight_VD.to(DTYPES[dtype]))
    else:
        logits_NV = normal(num_rows, shape.vocab_size).mul_(3)
        logits_NV[torch.arange(num_rows, device=device), target_N] += lead_N
        inputs = (logits_NV.to(DTYPES[dtype]),)
        if path.has_reference:
            reference_NV = normal(num_rows, shape.vocab_size).mul_(0.3).add_(logits_NV)
            given = (target_N, reference_NV.to(DTYPES[dtype]))
    return Problem(path, inputs, given, normal(path.num_trained, num_rows))
