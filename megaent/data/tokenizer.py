"""The tokenizer of a Hugging Face folder, loaded from disk alone, and what it says about stopping."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.data.task import Decode
from megaent.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(model_path: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; no download, and no code that the folder may bring."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not (model_path / "config.json").is_file():
        raise ModelError(f"expected a Hugging Face model folder with config.json, got {model_path}")
    # tokenizer.json says all there is to say. AutoTokenizer would replace its splitting and its
    # decoding by those usual for the model's type, whatever the file says (transformers 5).
    whole = (model_path / "tokenizer.json").is_file()
    loader = PreTrainedTokenizerFast if whole else AutoTokenizer
    try:
        return loader.from_pretrained(model_path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the tokenizer in {model_path} cannot be loaded: {error}; the folder needs the files that "
            "tokenizer.save_pretrained writes"
        ) from error


def decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    def decode(tokens: Sequence[int]) -> str:
        text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    return decode


def end_token_ids(model_path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's and those of generation_config.json."""
    named: list[object] = [tokenizer.eos_token_id]
    path = model_path / "generation_config.json"
    if path.is_file():
        declared = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        named += declared if isinstance(declared, list) else [declared]
    ids = {token for token in named if isinstance(token, int)}
    if not ids:
        raise ModelError(
            f"{model_path} names no end-of-text token; set eos_token_id in generation_config.json"
        )
    return tuple(sorted(ids))


def newline_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every token whose text contains a newline."""
    return tuple(i for i in range(len(tokenizer)) if "\n" in tokenizer.decode([i]))


def context_length(model_path: Path) -> int:
    """The most tokens the model can see, prompt and response together."""
    config = json.loads((model_path / "config.json").read_text(encoding="utf-8"))
    length = config.get("max_position_embeddings")
    if not isinstance(length, int):
        raise ModelError(f"{model_path / 'config.json'} must give max_position_embeddings, got {length!r}")
    return length
