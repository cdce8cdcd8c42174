"""A JSON file of a model folder, its fields taken by name and kind; an error names file and cure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaent.errors import ModelError

COPY_AGAIN = "copy the folder again"
_LARGEST = 1e300  # JSON may hold whole numbers that no float can
_LFS = "version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object and the file that it stands in. A field that is null counts as absent."""

    file: Path
    values: dict[str, Any]

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self._given(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(key, "a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._given(key, default)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 < value < _LARGEST:
            raise self.wrong(key, "a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._given(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def object(self, key: str) -> Fields | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Fields(self.file, value) if value else None

    def wrong(self, key: str, expected: str) -> ModelError:
        return ModelError(
            f"{self.file}: {key} must be {expected}, got {self.values.get(key)!r:.80}; {COPY_AGAIN}, or mend "
            "it"
        )

    def _given(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None and default is None:
            raise ModelError(f"{self.file} lacks the key {key!r}; {COPY_AGAIN}")
        return default if value is None else value


def read_fields(file: Path) -> Fields:
    """The object in ``file``. Raises ModelError for a file that is missing, cut, no JSON or no object."""
    values = read_json(file)
    if not isinstance(values, dict):
        raise ModelError(f"{file} must hold a JSON object, got {type(values).__name__}; {COPY_AGAIN}")
    return Fields(file, values)


def read_json(file: Path) -> Any:
    """Whatever JSON the file holds. Raises ModelError."""
    text = read_text(file)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not readable JSON: {error}; {COPY_AGAIN}") from error


def read_text(file: Path) -> str:
    """Raises ModelError for a file that is missing, no UTF-8, or a stand-in for the file."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelError(f"{file} is missing; {COPY_AGAIN}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as UTF-8 text: {error}; {COPY_AGAIN}") from error
    if text.startswith(_LFS):
        raise ModelError(f"{file} is a pointer of git-lfs and not the file; run `git lfs pull` in its folder")
    return text
