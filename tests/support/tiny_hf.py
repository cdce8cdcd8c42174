"""Tiny Hugging Face checkpoints with weights large enough that a mistake shows."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
    "mixtral": (MixtralConfig, MixtralForCausalLM),
}


def save_tiny(
    folder: Path,
    *,
    family: str,
    tie: bool,
    rope_theta: float = 10000.0,
    swap_gate_up: bool = False,
    vocab_size: int = 100,
    dtype: torch.dtype = torch.float32,
    **more: object,
) -> Path:
    """Four layers, hidden 64, four heads on two key/value heads; equal seeds give equal weights."""
    config_class, model_class = FAMILIES[family]
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 176,
        "vocab_size": vocab_size,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tie,
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta},
    }
    torch.manual_seed(5)
    model = model_class(config_class(**(sizes | more)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4)
        for layer in model.model.layers if swap_gate_up else []:
            gate, up = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight
            gate.data, up.data = up.data.clone(), gate.data.clone()
    model.to(dtype).save_pretrained(folder)
    return folder
