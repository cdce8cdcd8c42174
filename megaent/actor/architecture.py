"""What of a Hugging Face folder decides the computation, read without torch and without Megatron."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from megaent.errors import ModelError

VOCAB_MULTIPLE = 128  # the padded vocabulary does not depend on the layout

FAMILIES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What of a Hugging Face ``config.json`` decides the computation."""

    family: str  # a key of FAMILIES
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rope_theta: float
    rms_norm_eps: float
    max_positions: int
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a Hugging Face folder; ModelError says what is missing or unsupported."""
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(
            f"model.path must be a Hugging Face folder with a config.json, got {str(folder)!r}; "
            "./scripts/get_smollm2 makes one"
        )
    try:
        config = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{file} is not readable JSON: {error}") from error
    family = str(config.get("model_type"))
    if family not in FAMILIES:
        raise ModelError(f"{file}: model_type must be one of {', '.join(FAMILIES)}, got {family!r}")
    _refuse_unsupported(file, config)
    try:
        return _architecture(family, config)
    except KeyError as error:
        raise ModelError(f"{file} lacks the key {error}") from error


def _architecture(family: str, config: dict) -> Architecture:
    rope = config.get("rope_parameters") or {}
    heads = config["num_attention_heads"]
    return Architecture(
        family=family,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        vocab_size=config["vocab_size"],
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
        rms_norm_eps=config["rms_norm_eps"],
        max_positions=config["max_position_embeddings"],
        tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


def _refuse_unsupported(file: Path, config: dict) -> None:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ModelError(f"{file}: rope_type must be default, got {kind!r}")
    if config.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{file}: hidden_act must be silu, got {config['hidden_act']!r}")
    for key in ("mlp_bias", "use_sliding_window"):
        if config.get(key):
            raise ModelError(f"{file}: {key}=true is not supported")
    if config["model_type"] != "qwen2" and config.get("attention_bias"):
        raise ModelError(f"{file}: attention_bias=true is supported for qwen2 only")
