"""What a model is given: the turns of a row, from a text, a list of turns, or either as JSON text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from megaent.errors import DataError

Turn = tuple[str, str]
"""Role (system, user or assistant) and text."""

SYSTEM = ("system", "system_prompt")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_PYTHON_TURNS = re.compile(r"\[\{'(?:role|from|content|value)'")


def turns_of(name: str, value: object) -> tuple[Turn, ...]:
    """One user turn of a text; the turns of a list."""
    if isinstance(value, str) and value.strip():
        return (("user", _characters(value.strip())),)
    if is_turns(value):
        return tuple(_turn(entry) for entry in value)  # type: ignore[attr-defined]
    raise DataError(f"the question must be text, or a list of turns, got {name}={value!r:.80}")


def is_turns(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value)


def with_system(row: Mapping[str, object], turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """ShareGPT and its kin keep the system's text in a column of its own."""
    said = next((value for name, value in row.items() if name.lower() in SYSTEM and value), None)
    if not isinstance(said, str) or not said.strip() or turns[0][0] == "system":
        return turns
    return (("system", _characters(said.strip())), *turns)


def unfolded(value: object) -> object:
    """A list of turns that a CSV or Parquet column holds as JSON text; anything else as it is."""
    if not isinstance(value, str):
        return value
    text = value.lstrip()
    if _PYTHON_TURNS.match(text):
        raise DataError(
            f"the question holds turns as Python prints them, {text[:40]!r}; write them as JSON (json.dumps)"
        )
    if not text.startswith("[{"):
        return value
    try:
        inner = json.loads(text)
    except ValueError:
        return value
    is_list_of_turns = all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in inner)
    return inner if is_list_of_turns else value


def _turn(entry: object) -> Turn:
    if isinstance(entry, dict):
        role = _ROLES.get(str(entry.get("role", entry.get("from"))))
        text = _joined(entry.get("content", entry.get("value")))
        if isinstance(text, dict):  # ORZ keeps the answer in the assistant's turn
            text = text.get("ground_truth", "")
        if role is not None and (isinstance(text, str) or role == "assistant"):
            return role, _characters(text if isinstance(text, str) else "")
    raise DataError(
        f"a turn must be {{'role': system, user or assistant, 'content': text}}, got {entry!r:.80}"
    )


def _joined(content: object) -> object:
    """The text of parts that are all text: ``[{"type": "text", "text": …}]``."""
    if not isinstance(content, list) or not content:
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
    is_text = len(parts) == len(content) and all(isinstance(part, str) for part in parts)
    return "".join(map(str, parts)) if is_text else content


def _characters(text: str) -> str:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise DataError("the question holds half of a surrogate pair, which is no character; mend the row")
    return text
