"""A folder with a byte tokenizer: ids 0 to 255 are bytes, then three special and two ordinary tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL, ORDINARY = ["<s>", "</s>", "<|end|>"], ["<|turn|>", "</think>"]  # ids 256 … 260
ROWS = 264


def save_tokenizer(
    folder: Path, *, post: str = "$A", generation: object = None, eos: object = None, **more: object
) -> Path:
    """A byte tokenizer with three special and two ordinary tokens, and a config.json."""
    folder.mkdir(exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    made.add_tokens([AddedToken(text, normalized=False) for text in ORDINARY])
    if post != "$A":
        used = [(text, made.token_to_id(text)) for text in post.split() if text != "$A"]
        made.post_processor = processors.TemplateProcessing(single=post, special_tokens=used)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>").save_pretrained(folder)
    config = {"model_type": "qwen2", "vocab_size": ROWS, "max_position_embeddings": 64, "eos_token_id": eos}
    (folder / "config.json").write_text(json.dumps(config | more))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder
