"""``megaent shard FILE``: texts, or questions with keys, as token sequences that a reader maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.commands.first_word import is_option
from megaent.data.files import read_source
from megaent.errors import ConfigError, DataError
from megaent.model_folder.tokenizer import Tokenizer, load_tokenizer, tokenizer_digest
from megaent.options import require
from megaent.shards.files import SHARD_TOKENS, write_shards

if TYPE_CHECKING:
    from megaent.data.jsonl import JsonlOptions

USAGE = """usage: megaent shard FILE model=FOLDER out=FOLDER [column=text] [tokens=N]
       megaent shard --prompts FILE model=FOLDER out=FOLDER [longest=N] [tokens=N] [data.KEY=VALUE …]

  FILE      a file, a folder or a pattern, as data.path takes it; never in memory as a whole
  model=    a Hugging Face folder, whose tokenizer is used
  out=      a new folder for the shards (docs/shards.md)
  column=   which field of a row holds the text
  tokens=   from how many tokens on a shard is full; 67108864 if not given

  --prompts questions with answer keys, for megaent train data=shards; data.… are those of
            data=jsonl: data.template, data.eval_fraction, data.drop_unusable, …
  longest=  tokens that a prompt may have; longer ones are rows that cannot be used
"""
_OPTIONS = ("model", "out", "column", "tokens")
_OF_PROMPTS = ("model", "out", "tokens", "longest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    path: str
    model: Path
    out: Path
    column: str
    tokens: int
    longest: int = 0
    data: tuple[str, ...] = ()  # data.KEY=VALUE
    is_prompts: bool = False


def shard(words: Sequence[str]) -> int:
    if not words or "--help" in words or "-h" in words:
        print(USAGE, end="")
        return 0
    command = read_words(words)
    if command.is_prompts:
        _write_prompts(command)
    else:
        _write_texts(command)
    return 0


def _write_texts(command: Command) -> None:
    tokenizer = load_tokenizer(command.model)
    written = write_shards(
        command.out,
        sequences(command, tokenizer),
        tokenizer=tokenizer_digest(command.model),
        shard_tokens=command.tokens,
    )
    count, tokens = sum(each.sequences for each in written), sum(each.tokens for each in written)
    print(f"{count} sequences, {tokens} tokens, in {len(written)} shards: {command.out}")


def _write_prompts(command: Command) -> None:
    from megaent.data.shard_writing import HELD_OUT, write_questions

    told = write_questions(
        _questions(command),
        command.model,
        command.out,
        longest=command.longest,
        shard_tokens=command.tokens,
    )
    for folder, sentence in zip((command.out, command.out / HELD_OUT), told, strict=False):
        print(f"{sentence}: {folder}")


def _questions(command: Command) -> JsonlOptions:
    """What ``data.…`` says of the file. Raises ConfigError, as megaent train does."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from megaent.data.jsonl import JsonlOptions

    words = dict(word.removeprefix("data.").split("=", 1) for word in command.data)
    try:
        given = OmegaConf.merge(OmegaConf.structured(JsonlOptions), words | {"path": command.path})
        options = OmegaConf.to_object(given)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{' '.join(command.data)}: {str(error).splitlines()[0]}") from error
    assert isinstance(options, JsonlOptions), "a structured node of that class"
    require(
        not options.weights,
        "data.weights has no effect on the shards of one set; make a folder of shards of each set, and give "
        "data.weights to megaent train",
    )
    options.require_files()
    return options


def read_words(words: Sequence[str]) -> Command:
    is_prompts = "--prompts" in words
    path, *rest = [word for word in words if word != "--prompts"] or [""]
    data = tuple(word for word in rest if word.startswith("data.") and "=" in word)
    own = [word for word in rest if word not in data]
    given = dict(word.split("=", 1) for word in own if "=" in word)
    names = _OF_PROMPTS if is_prompts else _OPTIONS
    odd = [word for word in own if word.split("=", 1)[0] not in names] or (data and not is_prompts)
    if odd or not path or is_option(path) or not given.get("model") or not given.get("out"):
        kind = "--prompts, a file" if is_prompts else "a file"
        more = " and data.…=" if is_prompts else ""
        options = "=, ".join(names)
        raise ConfigError(f"shard takes {kind}, {options}={more}; got {' '.join(words)}")
    return Command(
        path=path,
        model=Path(given["model"]),
        out=Path(given["out"]),
        column=given.get("column", "text"),
        tokens=_whole("tokens", given.get("tokens", str(SHARD_TOKENS))),
        longest=_whole("longest", given["longest"]) if "longest" in given else 0,
        data=data,
        is_prompts=is_prompts,
    )


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"{name} must be a whole number above 0, got {text!r}")
    return int(text)


def sequences(command: Command, tokenizer: Tokenizer) -> Iterator[Sequence[int]]:
    """A row at a time. Raises DataError, naming the row, where it has no such text."""
    for place, row in read_source(command.path):
        text = row.get(command.column) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text:
            raise DataError(f"{place}: expected a text in {command.column!r}; name the field by column=")
        yield tokenizer.encode(text)
