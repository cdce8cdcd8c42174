"""A tokenizer's files, looked at before anything loads them: there, whole, and of a form that can be read."""

from __future__ import annotations

from pathlib import Path

from megaent.errors import ModelError
from megaent.model_folder.json_file import COPY_AGAIN, read_fields, read_json, read_text

WHOLE = "tokenizer.json"
_VOCABULARIES = ((WHOLE,), ("vocab.json", "merges.txt"), ("tokenizer.model",))
_OBJECTS = (WHOLE, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
_SAVED_BY = "the folder needs the files that tokenizer.save_pretrained writes"


def require_tokenizer_files(folder: Path) -> None:
    """Raises ModelError for a tokenizer that is missing, or a file of it that is cut or no JSON."""
    for name in _OBJECTS:
        if (folder / name).exists():
            read_fields(folder / name)
    template = folder / "chat_template.json"
    if template.exists():
        read_json(template)
    for name in ("chat_template.jinja", "merges.txt"):
        if (folder / name).exists():
            read_text(folder / name)
    if not any(all((folder / name).is_file() for name in names) for names in _VOCABULARIES):
        raise ModelError(
            f"{folder} has no tokenizer that can be read: expected {WHOLE}, or vocab.json and merges.txt; "
            f"{_SAVED_BY}, so copy them from the model it was made of"
        )
    if (folder / WHOLE).is_file():
        _require_model(folder / WHOLE)


def _require_model(file: Path) -> None:
    model = read_fields(file).object("model")
    if model is None or not model.get("vocab"):
        raise ModelError(f"{file} holds no vocabulary (model.vocab), so it is no tokenizer; {COPY_AGAIN}")
