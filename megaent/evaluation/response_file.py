"""Responses as they lie on the disk: one line a prompt, written once and never changed.

    evaluation.json    what was asked of which model, and how; written first
    responses.jsonl    {"id", "question", "answer", "responses": […], "samples": [{"tokens", …}], …}
    grades.jsonl       {"id", "grader", "grades": […]}, made from the above, as often as one likes

A line holds the columns that ``megaent audit`` reads. Lines are appended and flushed to the disk a whole
batch at a time; what a kill leaves of a batch is cut off when the evaluation goes on.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from megaent.durable import replace_file, sync
from megaent.errors import ConfigError, DataError
from megaent.types import Grade, Group, Prompt, Response

SETTINGS, RESPONSES, GRADES = "evaluation.json", "responses.jsonl", "grades.jsonl"

Settings = dict[str, Any]


class ResponseFile:
    """The responses of one evaluation in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RESPONSES

    # ------------------------------------------------------------ settings

    def settings(self) -> Settings:
        """Raises DataError where the folder holds no evaluation."""
        file = self.folder / SETTINGS
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(
                f"{self.folder} holds no evaluation ({SETTINGS} is not there); name the folder that "
                "`megaent evaluate` wrote"
            ) from error
        except ValueError as error:
            raise DataError(f"{file} is damaged: {error}; restore it from a copy") from error
        if not isinstance(found, dict):
            raise DataError(f"{file} must hold an object, got {type(found).__name__}; restore it from a copy")
        return found

    def begin(self, settings: Settings) -> None:
        """Write the settings of a new evaluation, or see that the one begun here has the same."""
        if not (self.folder / SETTINGS).exists():
            replace_file(self.folder / SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
            return
        then = self.settings()
        asked = json.loads(json.dumps(settings))
        other = [name for name in asked.keys() | then.keys() if asked.get(name) != then.get(name)]
        if other:
            name = sorted(other)[0]
            raise ConfigError(
                f"{self.folder} holds responses of another evaluation: its {name} is "
                f"{then.get(name)!r:.150}, here it is {asked.get(name)!r:.150}; give another folder as out="
            )

    # ------------------------------------------------------------ responses

    @contextmanager
    def held(self, *, at_once: int) -> Iterator[BinaryIO]:
        """The file, open for appending, cut back to whole batches; one process at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise
                raise ConfigError(f"another process writes to {self.path}; wait for it or end it") from error
            self._cut(file, at_once)
            sync(self.folder)
            yield file

    def _cut(self, file: BinaryIO, at_once: int) -> None:
        file.seek(0)
        lines = file.read().split(b"\n")[:-1]
        is_finished = len(lines) >= self._total()
        kept = lines if is_finished else lines[: len(lines) // at_once * at_once]
        file.truncate(sum(len(line) + 1 for line in kept))
        file.seek(0, os.SEEK_END)

    def _total(self) -> int:
        return int(self.settings()["num_prompts"])

    def append(self, file: BinaryIO, groups: Sequence[Group], seeds: Sequence[Sequence[int]]) -> None:
        """One batch, on the disk when this returns."""
        lines = [
            json.dumps(_row(group, own), ensure_ascii=False) for group, own in zip(groups, seeds, strict=True)
        ]
        file.write("".join(line + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())

    def read(self) -> list[Group]:
        """Every group in the order of the file. Raises DataError naming the line that is none."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            return [self._group(number, line) for number, line in enumerate(file) if line.endswith(b"\n")]

    def _group(self, number: int, line: bytes) -> Group:
        try:
            return _group(number, json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.path} line {number + 1} is no prompt with responses ({error!r:.80}); "
                "restore the file from a copy, or cut it off before this line and evaluate again"
            ) from error

    # ------------------------------------------------------------ grades

    def write_grades(self, groups: Iterable[Group], grader: str) -> None:
        rows = [
            {"id": group.prompt.id, "grader": grader, "grades": list(map(asdict, group.grades))}
            for group in groups
        ]
        replace_file(
            self.folder / GRADES, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        )

    def read_graded(self, grader: str) -> list[Group]:
        """The responses with their newest grades. Raises DataError unless ``grader`` gave those."""
        self.settings()
        groups, path = self.read(), self.folder / GRADES
        if not path.is_file():
            raise DataError(f"{self.folder} has no {GRADES} yet; finish it by megaent evaluate --regrade")
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        if [row["id"] for row in rows] != [group.prompt.id for group in groups]:
            raise DataError(f"{path} grades other responses than {self.path} holds; use --regrade")
        others = {row.get("grader", "one that it does not name") for row in rows} - {grader}
        if others:
            raise DataError(
                f"{path} was graded by {others.pop()}, and what it is compared with by {grader}; grade it "
                f"again: megaent evaluate --regrade {self.folder} grader={grader}"
            )
        return [
            _with_grades(group, [Grade(**grade) for grade in row["grades"]])
            for group, row in zip(groups, rows, strict=True)
        ]


# ---------------------------------------------------------------- lines


def _row(group: Group, seeds: Sequence[int]) -> Mapping[str, Any]:
    prompt = group.prompt
    return {
        "id": prompt.id,
        "split": prompt.split,
        "labels": dict(prompt.labels),
        "question": prompt.text,
        "answer": prompt.answer,
        "prompt_tokens": list(prompt.tokens),
        "responses": [response.text for response in group.responses],
        "samples": [
            {
                "seed": seed,
                "finish": response.finish,
                "version": response.version,
                "tokens": list(response.tokens),
                "log_prob": list(response.log_prob),
            }
            for response, seed in zip(group.responses, seeds, strict=True)
        ],
    }


def _group(number: int, row: Mapping[str, Any]) -> Group:
    prompt = Prompt(
        id=row["id"],
        tokens=tuple(row["prompt_tokens"]),
        text=row["question"],
        answer=row["answer"],
        split=row["split"],
        labels=tuple(row["labels"].items()),
    )
    responses = tuple(
        Response(
            tokens=tuple(sample["tokens"]),
            log_prob=tuple(sample["log_prob"]),
            finish=sample["finish"],
            version=sample["version"],
            text=text,
        )
        for text, sample in zip(row["responses"], row["samples"], strict=True)
    )
    return Group(index=number, prompt=prompt, responses=responses)


def _with_grades(group: Group, grades: Sequence[Grade]) -> Group:
    if len(grades) != len(group.responses):
        raise DataError(f"{group.prompt.id} has {len(group.responses)} responses and {len(grades)} grades")
    return Group(index=group.index, prompt=group.prompt, responses=group.responses, grades=tuple(grades))
