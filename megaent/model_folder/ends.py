"""The tokens that end a response: the union of what config.json, generation_config.json and the tokenizer
name.

transformers, vLLM and SGLang each read another one of the three; a response that one of them would have
ended must not go on here.
"""

from __future__ import annotations

from megaent.errors import ModelError
from megaent.model_folder.json_file import Fields, read_fields


def declared_ends(config: Fields) -> set[int]:
    """Ids that the folder's two configurations name, a number or a list each. Raises ModelError."""
    rows = vocab_rows(config)
    generation = config.file.parent / "generation_config.json"
    found = _ends(config, rows)
    return found | _ends(read_fields(generation), rows) if generation.exists() else found


def vocab_rows(config: Fields) -> int:
    """Rows of the embedding; a folder without a model, which has a tokenizer alone, sets no limit."""
    return config.whole("vocab_size", 2**31)


def _ends(fields: Fields, rows: int) -> set[int]:
    value = fields.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int):
            raise fields.wrong("eos_token_id", "a token's id or a list of them")
        if not 0 <= token < rows:
            raise ModelError(
                f"{fields.file}: eos_token_id names token {token}, and the model has tokens 0 to {rows - 1}; "
                "take the files of one model"
            )
    return set(ids)
