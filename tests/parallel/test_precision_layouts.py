"""Simulated FP8 in every kind of layout against an independent model that rounds the same operands.

MXFP8, whose blocks of 32 lie inside one rank's share here, so that no layout changes what is rounded. Every
pack holds one sequence, as the independent model does: a block of 32 tokens is one of a pack.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.layouts import FP64, GROUPS, LAYOUTS, differences, job, launch, reference
from support.plain_lm import PlainModel, PlainResult
from support.tiny_hf import save_tiny
from torch import Tensor

pytestmark = [pytest.mark.full, pytest.mark.timeout(1000)]

NAMES = ("tp1", "tp2", "tp2_sp", "pp2", "dp2", "cp2")
SIZES = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 128}
TWO = [
    group | {"responses": [group["responses"][0], group["responses"][0][::-1]], "rewards": [1.0, 0.0]}
    for group in GROUPS
]
WHAT = ("log_prob", "entropy", "loss", "gradient")
FORMS = {"groups": TWO, "microbatch_tokens": 13, "share_prompts": False, "kept_graphs_gib": 0.0}


def e4m3_numbers() -> np.ndarray:
    """0 to 448, put together from four bits of exponent and three of mantissa."""
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    return (mantissa / 8 + (exponent > 0)) * 2.0 ** (np.maximum(exponent, 1) - 7)


NUMBERS = e4m3_numbers()
HALFWAY = (NUMBERS[1:] + NUMBERS[:-1]) / 2


def rounded_rows(x: Tensor) -> Tensor:
    """Blocks of 32 along the last axis: by the power of two that brings the largest to at most 448."""
    values = x.detach().float().double().numpy()
    out = np.empty_like(values)
    for start in range(0, values.shape[1], 32):
        block = values[:, start : start + 32]
        amax = np.abs(block).max(1, keepdims=True)
        wanted = np.float32(amax) * np.float32(1 / 448)
        scale = 2.0 ** np.ceil(np.log2(np.maximum(wanted.astype(np.float64), 2.0**-127)))
        size = np.abs(block / scale)
        below, at = np.searchsorted(HALFWAY, size, "left"), np.searchsorted(HALFWAY, size, "right")
        place = np.where(below == at, below, np.where(below % 2 == 0, below, at))  # a tie: to the even one
        out[:, start : start + 32] = np.copysign(NUMBERS[place], block) * scale
    return torch.from_numpy(out)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return rounded_rows(x) @ rounded_rows(w).T

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, w), (grad,) = ctx.saved_tensors, gradients
        return (
            rounded_rows(grad) @ rounded_rows(w.T.contiguous()).T,
            rounded_rows(grad.T.contiguous()) @ rounded_rows(x.T.contiguous()).T,
        )


class RoundedModel(PlainModel):
    def _linear(self, name: str, x: Tensor) -> Tensor:
        return Product.apply(x, self.weights[name + ".weight"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("precision")
    made = save_tiny(root / "model", family="qwen2", tie=False, **SIZES)  # pyright: ignore[reportArgumentType]
    for size in (1, 2):
        jobs = [
            job(name, FP64, made, root / f"{name}.pt", **FORMS)
            | {"precision": "fp8_sim", "precision_options": {"recipe": "mxfp8"}}
            for name in NAMES
            if LAYOUTS[name][0] == size
        ]
        launch(jobs, size, root)
    return made


@pytest.fixture(scope="module")
def rounded(folder: Path) -> PlainResult:
    return reference(folder, FP64, groups=TWO, kind=RoundedModel)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_a_layout_rounds_what_an_independent_model_rounds(
    folder: Path, rounded: PlainResult, name: str
) -> None:
    found = torch.load(folder.parent / f"{name}.pt", weights_only=True)
    apart = differences(found, rounded)
    assert max(apart[what] for what in WHAT) < 1e-12, apart


def test_under_context_parallelism_what_is_read_alone_is_the_same(folder: Path, rounded: PlainResult) -> None:
    """Log-probabilities: rows are rounded for themselves. Gradients of weights are summed by other blocks."""
    found = torch.load(folder.parent / "cp2.pt", weights_only=True)
    apart = differences(found, rounded)
    assert max(apart[what] for what in WHAT[:3]) < 1e-12, apart
    assert apart["gradient"] > 1e-10


def test_the_rounding_shows(folder: Path, rounded: PlainResult) -> None:
    full = reference(folder, FP64, groups=TWO)
    drift = (full.log_prob[0] - rounded.log_prob[0]).abs()
    assert 1e-3 < float(drift.mean()) < 0.3
