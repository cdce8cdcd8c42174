"""What a task reads of a model's folder, for a vocabulary of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megaent.small_models.warmup import make_tokenizer


def write_word_folder(folder: Path, words: Sequence[str]) -> Path:
    make_tokenizer(words).save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2", "max_position_embeddings": 256}')
    (folder / "generation_config.json").write_text('{"eos_token_id": 1}')
    return folder
