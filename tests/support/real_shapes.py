"""config.json as real models have it, the sizes alone made tiny; what decides the computation is theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.1,  # five times the usual: distributions far from uniform
    "torch_dtype": "float32",
    "use_cache": True,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
}
_QWEN2 = _SMALL | {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 131072,
    "max_window_layers": 3,
}
_LLAMA = _SMALL | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "pretraining_tp": 1,
}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
_QWEN3 = _SMALL | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 32,
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "max_window_layers": 4,
    "sliding_window": None,
    "use_sliding_window": False,
}
_MIXTURE = {"num_experts_per_tok": 2, "output_router_logits": False, "router_aux_loss_coef": 0.001}

# Original lengths of 64 tokens, so that a test can go far above them.
REAL: dict[str, dict[str, Any]] = {
    "llama-3.1": _LLAMA
    | {
        "max_position_embeddings": 1024,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA3 | {"original_max_position_embeddings": 64},
        "tie_word_embeddings": False,
    },
    "llama-3.2": _LLAMA
    | {
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 64},
        "tie_word_embeddings": True,
    },
    "qwen2.5": _QWEN2
    | {"max_position_embeddings": 1024, "rope_theta": 1000000.0, "tie_word_embeddings": True},
    "qwen2.5-yarn": _QWEN2
    | {
        "max_position_embeddings": 1024,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 64, "type": "yarn"},
    },
    "qwen2.5-math": _QWEN2
    | {
        "max_position_embeddings": 1024,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "sliding_window": 4096,
    },
    "r1-distill-qwen": _QWEN2
    | {
        "max_position_embeddings": 1024,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "use_mrope": False,
    },
    "r1-distill-llama": _LLAMA
    | {
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA3 | {"original_max_position_embeddings": 64},
        "tie_word_embeddings": False,
    },
    "qwen3": _QWEN3
    | {
        "max_position_embeddings": 1024,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "tie_word_embeddings": True,
    },
    "qwen3-moe": _QWEN3
    | _MIXTURE
    | {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
        "num_experts": 4,
        "max_position_embeddings": 1024,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
    },
    "mixtral": _SMALL
    | _MIXTURE
    | {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 4,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "smollm2": _LLAMA
    | {
        "max_position_embeddings": 1024,
        "rope_theta": 130000,
        "rope_scaling": None,
        "rope_interleaved": False,
        "is_llama_config": True,
        "tie_word_embeddings": True,
    },
    "smollm3": _SMALL
    | {
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "attention_bias": False,
        "mlp_bias": False,
        "layer_types": ["full_attention"] * 4,
        "max_position_embeddings": 1024,
        "max_window_layers": 28,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0],
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
    },
}

_PLAIN = REAL["qwen2.5"] | {"rope_theta": 10000.0}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "linear": _PLAIN | {"rope_scaling": {"type": "linear", "factor": 8.0}},
    "dynamic": _PLAIN | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0}},
    "theta-inside": _PLAIN | {"rope_theta": None, "rope_parameters": {"rope_theta": 1e6}},
    "both": _PLAIN
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_scaling": _YARN},
    "yarn-factor": _PLAIN | {"rope_parameters": _YARN | {"attention_factor": 1.3, "rope_theta": 1e4}},
    "yarn-mscale": _PLAIN | {"rope_parameters": _YARN | {"mscale": 0.7, "mscale_all_dim": 1.1}},
    "yarn-ramp": _PLAIN | {"rope_parameters": _YARN | {"truncate": False, "beta_fast": 8, "beta_slow": 0.5}},
    "original-beside": _PLAIN
    | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 64},
    "smollm3-yarn": REAL["smollm3"] | {"rope_scaling": _YARN},
}


def save_shape(folder: Path, config: dict[str, Any], *, seed: int = 3) -> Path:
    """A model of ``config`` whose biases and norms are random too; its config.json as given."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({key: value for key, value in config.items() if value is not None})
    (folder / "config.json").write_text(text)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(text)
    return folder
