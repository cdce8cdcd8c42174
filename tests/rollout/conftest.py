"""Tiny random models in ordinary Hugging Face folders, made once a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

VOCABULARY = 64


def _config(kind: str) -> PreTrainedConfig:
    kinds = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
    return kinds[kind](
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        tie_word_embeddings=kind == "qwen2",
        # Ten times the usual: distributions far from uniform, so that a wrong position or mask shows.
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )


def save_model(folder: Path, kind: str, *, seed: int) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(kind), dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers makes them zero, which would hide a lost bias
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {kind: save_model(root / kind, kind, seed=1) for kind in ("qwen2", "qwen3", "llama")}


@pytest.fixture(params=["qwen2", "qwen3", "llama"])
def model_folder(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> Path:
    return model_folders[request.param]


@pytest.fixture
def qwen2(model_folders: dict[str, Path]) -> Path:
    return model_folders["qwen2"]


@pytest.fixture(scope="session")
def other_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The architecture of ``qwen2`` with other weights."""
    return save_model(tmp_path_factory.mktemp("other"), "qwen2", seed=2)
