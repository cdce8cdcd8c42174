"""The arithmetic of a transformers model for a flat list of tokens, without its modules.

A token a row through a small model costs mostly the Python of transformers' modules, which serve every use.
Here are the same products for the families of megaent.model_folder.architecture; weights, rotary angles
and mixtures of experts stay transformers' own. Norms are computed in fp64 where the model is, which
transformers computes in fp32 always.

N tokens, E hidden size, H query heads, G key/value heads, d head size, V vocabulary, T positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, rms_norm, silu
from transformers import PreTrainedModel

from megaent.model_folder.architecture import Architecture

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, query [N, H, d], key [N, G, d], value [N, G, d]) to what each query sees, [N, H, d]."""


class Transformer:
    """``model``, whose weights stay where they are and may be overwritten between passes."""

    def __init__(self, model: PreTrainedModel, architecture: Architecture) -> None:
        inner: Any = model.model
        self._embedding: Tensor = inner.embed_tokens.weight
        self._output: Tensor = model.get_output_embeddings().weight  # type: ignore[union-attr]
        self._norm: Tensor = inner.norm.weight
        self._layers = [_layer(module, architecture) for module in inner.layers]
        self._turns = [layer not in architecture.no_rope_layers for layer in range(len(self._layers))]
        self._rotary = inner.rotary_emb
        self._eps = architecture.rms_norm_eps
        self.architecture = architecture

    @property
    def device(self) -> torch.device:
        return self._embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self._embedding.dtype

    def angles(self, length: int) -> Angles:
        """Of the first ``length`` positions, as transformers scales them."""
        position = torch.arange(length, device=self.device)[None]
        cos_1Td, sin_1Td = self._rotary(self._embedding, position)
        low, high = sin_1Td[0].chunk(2, dim=-1)
        return Angles(cos_1Td[0], torch.cat((-low, high), dim=-1))

    def hidden(self, token_N: Tensor, angles_N: Angles, attend: Attend) -> Tensor:
        """[N, E] behind the last norm; ``angles_N`` are those of each token's position."""
        turn = angles_N.with_heads()
        x_NE = embedding(token_N, self._embedding)
        for number, layer in enumerate(self._layers):
            query, key, value = layer.project(self._normed(x_NE, layer.attention_norm), self._eps)
            if self._turns[number]:
                query, key = turn(query), turn(key)
            seen_NHd = attend(number, query, key, value)
            x_NE = torch.addmm(x_NE, seen_NHd.flatten(1), layer.output.T)
            x_NE = layer.mlp(x_NE, self._normed(x_NE, layer.mlp_norm))
        return self._normed(x_NE, self._norm)

    def logits(self, hidden_NE: Tensor) -> Tensor:
        return linear(hidden_NE, self._output)

    def _normed(self, x_NE: Tensor, weight_E: Tensor) -> Tensor:
        return rms_norm(x_NE, weight_E.shape, weight_E, self._eps)


class Angles(NamedTuple):
    """cos, and sin with the sign that the first half of a head's dimensions takes."""

    cos_Nd: Tensor
    sin_Nd: Tensor

    def at(self, position_N: Tensor) -> Angles:
        return Angles(self.cos_Nd[position_N], self.sin_Nd[position_N])

    def with_heads(self) -> Callable[[Tensor], Tensor]:
        """Turns [N, heads, d]: x cos + (-x2, x1) sin, Su et al. 2021, arXiv 2104.09864."""
        cos, sin, half = self.cos_Nd[:, None], self.sin_Nd[:, None], self.cos_Nd.shape[-1] // 2
        return lambda x_NHd: torch.addcmul(x_NHd * cos, x_NHd.roll(half, -1), sin)


class Projection(NamedTuple):
    """A linear layer to heads, and the norm of each head where the family has one."""

    weight: Tensor
    bias: Tensor | None
    norm_d: Tensor | None
    head_dim: int

    def __call__(self, x_NE: Tensor, eps: float) -> Tensor:
        heads_NHd = linear(x_NE, self.weight, self.bias).unflatten(-1, (-1, self.head_dim))
        return heads_NHd if self.norm_d is None else rms_norm(heads_NHd, (self.head_dim,), self.norm_d, eps)


class Layer(NamedTuple):
    attention_norm: Tensor
    query: Projection
    key: Projection
    value: Projection
    output: Tensor
    mlp_norm: Tensor
    mlp: Callable[[Tensor, Tensor], Tensor]  # adds to the first what it makes of the second

    def project(self, x_NE: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return self.query(x_NE, eps), self.key(x_NE, eps), self.value(x_NE, eps)


def _layer(module: Any, architecture: Architecture) -> Layer:
    attention = module.self_attn
    norms = (attention.q_norm.weight, attention.k_norm.weight) if architecture.qk_norm else (None, None)
    query, key, value = (
        Projection(part.weight, part.bias, norm, architecture.head_dim)
        for part, norm in zip(
            (attention.q_proj, attention.k_proj, attention.v_proj), (*norms, None), strict=True
        )
    )
    return Layer(
        attention_norm=module.input_layernorm.weight,
        query=query,
        key=key,
        value=value,
        output=attention.o_proj.weight,
        mlp_norm=module.post_attention_layernorm.weight,
        mlp=_gated(module.mlp) if hasattr(module.mlp, "gate_proj") else _mixture(module.mlp),
    )


def _gated(mlp: Any) -> Callable[[Tensor, Tensor], Tensor]:
    gate, up, down_T = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T
    return lambda x_NE, y_NE: torch.addmm(x_NE, silu(linear(y_NE, gate)).mul_(linear(y_NE, up)), down_T)


def _mixture(mlp: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x_NE, y_NE: x_NE + mlp(y_NE[None])[0]
