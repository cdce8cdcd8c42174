"""``megaent shard FILE``: texts of a file as token sequences that a reader maps instead of loading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megaent.commands.first_word import is_option
from megaent.data.files import read_source
from megaent.errors import ConfigError, DataError
from megaent.model_folder.tokenizer import Tokenizer, load_tokenizer
from megaent.shards.files import SHARD_TOKENS, write_shards

USAGE = """usage: megaent shard FILE model=FOLDER out=FOLDER [column=text] [tokens=N]

  FILE      a file, a folder or a pattern, as data.path takes it; read in one pass
  model=    a Hugging Face folder, whose tokenizer is used
  out=      a new folder for the shards (docs/shards.md)
  column=   which field of a row holds the text
  tokens=   from how many tokens on a shard is full; 67108864 if not given
"""
_OPTIONS = ("model", "out", "column", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    path: str
    model: Path
    out: Path
    column: str
    tokens: int


def shard(words: Sequence[str]) -> int:
    if not words or "--help" in words or "-h" in words:
        print(USAGE, end="")
        return 0
    command = read_words(words)
    tokenizer = load_tokenizer(command.model)
    written = write_shards(
        command.out,
        sequences(command, tokenizer),
        tokenizer=tokenizer_digest(command.model),
        shard_tokens=command.tokens,
    )
    count, tokens = sum(each.sequences for each in written), sum(each.tokens for each in written)
    print(f"{count} sequences, {tokens} tokens, in {len(written)} shards: {command.out}")
    return 0


def read_words(words: Sequence[str]) -> Command:
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    odd = [word for word in words[1:] if word.split("=", 1)[0] not in _OPTIONS]
    if odd or is_option(words[0]) or not given.get("model") or not given.get("out"):
        raise ConfigError(f"shard takes a file, model=, out=, column= and tokens=; got {' '.join(words)}")
    tokens = given.get("tokens", str(SHARD_TOKENS))
    if not tokens.isdecimal() or not int(tokens):
        raise ConfigError(f"tokens must be a whole number above 0, got {tokens!r}")
    return Command(
        path=words[0],
        model=Path(given["model"]),
        out=Path(given["out"]),
        column=given.get("column", "text"),
        tokens=int(tokens),
    )


def sequences(command: Command, tokenizer: Tokenizer) -> Iterator[Sequence[int]]:
    """A row at a time. Raises DataError, naming the row, where it has no such text."""
    for place, row in read_source(command.path):
        text = row.get(command.column) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text:
            raise DataError(f"{place}: expected a text in {command.column!r}; name the field by column=")
        yield tokenizer.encode(text)


def tokenizer_digest(folder: Path) -> str:
    """Of the files that a tokenizer is read from: the same in every copy of the folder."""
    content = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt"):
        if (folder / name).is_file():
            content.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    return content.hexdigest()
