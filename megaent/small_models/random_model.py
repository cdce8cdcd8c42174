"""A Qwen2 of any size with random weights, to measure with: it learns nothing that anybody wants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from megaent.data.chain_sum import EOS, PAD, VOCABULARY
from megaent.errors import ConfigError
from megaent.small_models.sealed_folder import make_sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    hidden: int = 128
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 512
    vocab: int = 512
    context: int = 4096

    def __post_init__(self) -> None:
        if self.vocab < len(VOCABULARY):
            raise ConfigError(f"the chain sums have {len(VOCABULARY)} words, got vocab={self.vocab}")


def make_random_model(folder: Path, sizes: ModelSizes) -> None:
    """As a Hugging Face folder in fp32; one that is there and whole stays."""
    make_sealed(folder, lambda aside: _write(aside, sizes))


def _write(folder: Path, sizes: ModelSizes) -> None:
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM
    from transformers.utils import logging

    from megaent.small_models.warmup import make_tokenizer

    end, pad = VOCABULARY.index(EOS), VOCABULARY.index(PAD)
    config = Qwen2Config(
        vocab_size=sizes.vocab,
        hidden_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        intermediate_size=sizes.ffn,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        dtype="float32",
    )
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
