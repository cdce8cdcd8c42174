"""Questions written as shards: a row at a time, as the model will read them, each with its key and labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megaent.data.jsonl import JsonlOptions, Writer, held_out
from megaent.data.rows import LISTED, LeftOut, Row, each_row
from megaent.errors import DataError
from megaent.model_folder.tokenizer import load_tokenizer, tokenizer_digest
from megaent.randomness import draw_seed
from megaent.shards.files import SHARD_TOKENS, Entry, write_shards
from megaent.types import Prompt

KIND = "questions 1"
HELD_OUT = "held_out"
_ANY_LENGTH = 1 << 31


def write_questions(
    options: JsonlOptions, model: Path, out: Path, *, longest: int = 0, shard_tokens: int = SHARD_TOKENS
) -> list[str]:
    """The questions of ``options.path`` in ``out``, those to be measured on in its folder ``held_out``.

    A prompt of more than ``longest`` tokens makes its row unusable (0: none does); a question that comes
    again is left out. The folder appears once all of it is there. Returns what to tell of both. Raises
    DataError and ModelError as data=jsonl does.
    """
    if out.exists():
        raise DataError(f"{out} exists; name a new folder for the shards")
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        told = _write_both(_Questions(options, model, longest or _ANY_LENGTH), aside, shard_tokens)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return told


def _write_both(questions: _Questions, folder: Path, shard_tokens: int) -> list[str]:
    options = questions.options
    told = [questions.write(folder, options.path, shard_tokens, is_held_out=False)]
    if options.eval_path or questions.passed_over:
        path = options.eval_path or options.path
        told.append(questions.write(folder / HELD_OUT, path, shard_tokens, is_held_out=True))
    return told


class _Questions:
    """One pass over a file for each of the two folders."""

    def __init__(self, options: JsonlOptions, model: Path, longest: int) -> None:
        self.options, self._model = options, model
        self._writer = Writer(options, load_tokenizer(model), longest)
        self._trained_on: dict[int, int] = {}  # hash of a question -> hash of its key
        self.passed_over = 0  # usable questions that belong to the other folder

    def write(self, folder: Path, path: str, shard_tokens: int, *, is_held_out: bool) -> str:
        about: dict[str, object] = {
            "kind": KIND,
            "keys": self.options.kind_of_keys,
            "reward": self.options.reward,
            "template": self.options.template,
            "date": self._writer.date,
        }
        write_shards(
            folder,
            self._entries(path, about, is_held_out=is_held_out),
            tokenizer=tokenizer_digest(self._model),
            shard_tokens=shard_tokens,
            about=about,
        )
        return str(about["told"])

    def _entries(self, path: str, about: dict[str, object], *, is_held_out: bool) -> Iterator[Entry]:
        """Raises DataError at the end of the file, or once as many rows are unusable as a message names."""
        left_out = LeftOut(may_drop=self.options.drop_unusable)
        known: dict[int, int] = {}
        rows = used = 0
        for row in self._rows(path, left_out):
            rows += 1
            if self._is_copy(row, known):
                continue
            if not self._belongs(row, is_held_out=is_held_out):
                self.passed_over += not is_held_out and self._is_usable(row)
                continue
            prompt = self._writer.prompt(row, f"jsonl/{row.digest}", left_out)
            if prompt is not None:
                used += 1
                yield Entry(prompt.tokens, written(prompt), number_of(prompt.id))
        left_out.settle(path)
        self._trained_on = self._trained_on or known
        copies = rows - len(known)
        told = [
            f"{path}: {used} questions",
            left_out.words(),
            f"{copies} repeat a question" if copies else "",
        ]
        about["told"] = "; ".join(filter(None, told))

    def _rows(self, path: str, left_out: LeftOut) -> Iterator[Row]:
        options = self.options
        for row in each_row(
            path,
            left_out,
            question_key=options.question_key,
            answer_key=options.answer_key,
            key_of=options.key_of,
        ):
            if len(left_out.problems) >= LISTED:
                left_out.settle(path)
            yield row

    def _is_copy(self, row: Row, known: dict[int, int]) -> bool:
        """Raises DataError where a question has two keys."""
        question, key = int(row.digest, 16), draw_seed("".join(row.answer.split()))
        if question not in known:
            known[question] = key
            return False
        if known[question] != key and not self.options.first_key_counts:
            raise DataError(
                f"{row.place} asks what an earlier row asks and has another key, {row.answer!r:.40}; mend "
                "one, or set data.first_key_counts=true"
            )
        return True

    def _belongs(self, row: Row, *, is_held_out: bool) -> bool:
        """Raises DataError for an evaluation question that is trained on."""
        if self.options.eval_path:
            if is_held_out and int(row.digest, 16) in self._trained_on:
                raise DataError(
                    f"evaluation questions must not be trained on, and {row.place} is; remove it from one of "
                    "the files"
                )
            return True
        return held_out(row.digest, self.options.eval_fraction) == is_held_out

    def _is_usable(self, row: Row) -> bool:
        """Whether it would be written to the other folder, which is not made for nothing."""
        return self._writer.prompt(row, f"jsonl/{row.digest}", LeftOut(may_drop=True)) is not None


# ---------------------------------------------------------------- what lies beside the tokens


def written(prompt: Prompt) -> bytes:
    kept = {"id": prompt.id, "text": prompt.text, "answer": prompt.answer, "labels": prompt.labels}
    return json.dumps(kept, ensure_ascii=False).encode()


def prompt_of(row: bytes, tokens: np.ndarray) -> Prompt:
    """What ``written`` wrote, with its tokens."""
    kept = json.loads(row)
    labels = tuple((name, value) for name, value in kept["labels"])
    return Prompt(**kept | {"tokens": tuple(tokens.tolist()), "labels": labels})


def number_of(name: str) -> int:
    """The hash of its question that a prompt's id ends with."""
    return int(name.rpartition("/")[2], 16)
