"""A language model's folder without the model: a byte-level tokenizer with a chat template."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}<user>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


@pytest.fixture(scope="session")
def byte_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token a byte, and one more of two newlines; two end tokens, one known to the tokenizer only."""
    folder = tmp_path_factory.mktemp("byte_model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    newline = next(char for char in alphabet if ord(char) == 0x100 + ord("\n"))
    vocabulary = {token: i for i, token in enumerate(["<end>", "<turn>", *alphabet, newline * 2])}
    bytes_ = Tokenizer(models.BPE(vocab=vocabulary, merges=[(newline, newline)]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_, eos_token="<end>", additional_special_tokens=["<turn>"]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = {"model_type": "llama", "max_position_embeddings": 512, "vocab_size": len(vocabulary)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1]}))
    return folder
