"""Frequencies of a rotary position embedding, in the operations and the order of transformers' own functions.

Position p turns pair i of a head by p * frequency_i; both sides compute it in fp32, so equal frequencies
give equal angles at any position. YaRN also multiplies cos and sin, so every score by ``attention_factor``
squared: here that is part of the softmax scale, which every backend takes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.model_folder.architecture import Architecture
from megaent.model_folder.rotary import Rotary


def inverse_frequencies(rotary: Rotary, head_dim: int, *, stretch: float = 1.0) -> Tensor:
    """[head_dim / 2] fp32 radians a token; ``stretch`` is length / max_position_embeddings, for dynamic."""
    theta = rotary.theta
    if rotary.kind == "dynamic" and stretch > 1:
        theta *= (rotary.factor * stretch - (rotary.factor - 1)) ** (head_dim / (head_dim - 2))
    frequency_I = 1.0 / (theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    if rotary.kind == "linear":
        return frequency_I / rotary.factor
    if rotary.kind == "llama3":
        return _llama3(rotary, frequency_I)
    if rotary.kind == "yarn":
        return _yarn(rotary, head_dim)
    return frequency_I


class Angles(NamedTuple):
    """By how much every token of a microbatch is turned: computed once, in fp32, and read by all layers."""

    cos: Tensor  # [N, 1, head_dim / 2], in the dtype of what is turned
    sin: Tensor

    @classmethod
    def at(cls, position_N: Tensor, frequency_I: Tensor, dtype: torch.dtype) -> Angles:
        angle_N1I = (position_N.to(frequency_I.dtype)[:, None] * frequency_I)[:, None]
        return cls(angle_N1I.cos().to(dtype), angle_N1I.sin().to(dtype))

    def turn(self, x_NHD: Tensor) -> Tensor:
        """Pair i of a head is its entries i and i + head_dim / 2."""
        a, b = x_NHD.chunk(2, dim=-1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], dim=-1)


def softmax_scale(architecture: Architecture) -> float | None:
    """Of a layer that turns; None is the usual 1 / sqrt(head_dim)."""
    factor = architecture.rotary.attention_factor
    return None if factor == 1 else factor**2 / math.sqrt(architecture.head_dim)


def _llama3(rotary: Rotary, frequency_I: Tensor) -> Tensor:
    """Llama 3.1: wavelengths above original / low are stretched, below original / high kept, else blended."""
    length, low, high = rotary.original_length, rotary.low_freq_factor, rotary.high_freq_factor
    wavelength_I = 2 * math.pi / frequency_I
    scaled_I = torch.where(wavelength_I > length / low, frequency_I / rotary.factor, frequency_I)
    smooth_I = (length / wavelength_I - low) / (high - low)
    blended_I = (1 - smooth_I) * scaled_I / rotary.factor + smooth_I * scaled_I
    is_between_I = ~(wavelength_I < length / high) * ~(wavelength_I > length / low)
    return torch.where(is_between_I, blended_I, scaled_I)


def _yarn(rotary: Rotary, head_dim: int) -> Tensor:
    """YaRN (arXiv 2309.00071): a ramp over the pairs from kept to divided frequencies."""
    period_I = rotary.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    low, high = _ramp(rotary, head_dim)
    ramp_I = (torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)
    kept_I = 1 - ramp_I.clamp(0, 1)
    return 1.0 / (rotary.factor * period_I) * (1 - kept_I) + 1.0 / period_I * kept_I


def _ramp(rotary: Rotary, head_dim: int) -> tuple[float, float]:
    def pair(rotations: float) -> float:
        turns = rotary.original_length / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(rotary.theta))

    low, high = pair(rotary.beta_fast), pair(rotary.beta_slow)
    if rotary.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high
