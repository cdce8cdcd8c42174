"""``data=shards``: questions that need not fit in memory, from folders that ``megaent shard --prompts`` made.

Tokens, keys and labels lie on the disk; what is asked next is a function of how many prompts were asked
before (``megaent.shards.stream``), so a checkpoint holds that number and nothing of a reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import overload

import numpy as np

from megaent.data.shard_options import ShardsOptions
from megaent.data.shard_stream import ShardStream
from megaent.data.shard_writing import HELD_OUT, KIND, prompt_of
from megaent.data.task import PromptSets, Task
from megaent.data.weights import shares_of
from megaent.errors import DataError
from megaent.model_folder.tokenizer import load_tokenizer, tokenizer_digest
from megaent.shards.files import MANIFEST, Shards
from megaent.types import Prompt


def open_sets(path: Path, *, tokenizer: str = "", in_memory: bool = False) -> dict[str, Shards]:
    """By name: the folder itself, or those in it. Raises DataError where there are none."""
    folders = [path] if (path / MANIFEST).is_file() else sorted(f.parent for f in path.glob(f"*/{MANIFEST}"))
    if not folders:
        raise DataError(
            f"{path} must be a folder of shards, or hold some; megaent shard --prompts makes them"
        )
    return {folder.name: Shards(folder, tokenizer=tokenizer, in_memory=in_memory) for folder in folders}


def require_questions(path: Path) -> None:
    """Raises DataError where no shards of questions are."""
    for shards in open_sets(path).values():
        _about(shards)


def _about(shards: Shards) -> dict:
    about = shards.manifest.get("about")
    if not isinstance(about, dict) or about.get("kind") != KIND:
        raise DataError(
            f"{shards.folder} holds texts, not questions with keys; make it by megaent shard --prompts"
        )
    return about


def load_shards(config: ShardsOptions, model_path: Path) -> Task:
    """The shards' questions, not read before they are asked. Raises DataError for those of another model."""
    tokenizer, digest = load_tokenizer(model_path), tokenizer_digest(model_path)
    sets = open_sets(Path(config.path), tokenizer=digest, in_memory=config.reader == "memory")
    held_out = _held_out(config, sets, digest)
    for shards in (*sets.values(), *held_out):
        _require_keys(shards, config)
    train = QuestionsOnDisk(sets, config)
    _require_apart([*sets.values(), *held_out])
    return Task(
        train=train,
        evaluation=HeldOutQuestions(held_out),
        grader=config.reward,
        grader_options=config.verifier_options,
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary="\n\n",
        notes=tuple(
            _told(name, shards, share)
            for (name, shards), share in zip(sets.items(), train.shares, strict=True)
        ),
    )


def _held_out(config: ShardsOptions, sets: dict[str, Shards], tokenizer: str) -> list[Shards]:
    if config.eval_path:
        return list(open_sets(Path(config.eval_path), tokenizer=tokenizer).values())
    beside = [shards.folder / HELD_OUT for shards in sets.values()]
    return [Shards(folder, tokenizer=tokenizer) for folder in beside if (folder / MANIFEST).is_file()]


def _require_keys(shards: Shards, config: ShardsOptions) -> None:
    kind = _about(shards)["keys"]
    if kind != config.kind_of_keys:
        raise DataError(
            f"{shards.folder} was made for data.reward={_about(shards)['reward']}, whose keys "
            f"data.reward={config.reward} does not read; set the same here, or make the shards again"
        )


def _require_apart(sets: Sequence[Shards]) -> None:
    """No question in two of the sets, be they trained on or held out."""
    for (one, one_ids), (other, other_ids) in combinations([(each, each.ids()) for each in sets], 2):
        shared = np.intersect1d(one_ids, other_ids, assume_unique=True)
        if shared.size:
            raise DataError(
                f"{shared.size} questions are in {one.folder} and in {other.folder}; "
                "make one of them again without them (megaent data FILE against=… out=…)"
            )


def _told(name: str, shards: Shards, share: float) -> str:
    return f"{name}: {len(shards)} questions, {share:.1%} of what is asked; {_about(shards)['told']}"


class QuestionsOnDisk(PromptSets):
    """Training questions of one or several sets, one set after the other."""

    def __init__(self, sets: dict[str, Shards], config: ShardsOptions) -> None:
        self.sets, self._config = tuple(sets.values()), config
        self.shares = shares_of(config.weights, {name: len(shards) for name, shards in sets.items()})
        self._ends = np.cumsum([len(shards) for shards in self.sets])
        self.num_sets = len(self.sets)
        self.longest = max(shards.longest for shards in self.sets)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        told = [[s.digest, share] for s, share in zip(self.sets, self.shares, strict=True)]
        return hashlib.sha256(json.dumps([told, self._config.window]).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Prompt]: ...
    def __getitem__(self, place: int | slice) -> Prompt | list[Prompt]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        source = int(np.searchsorted(self._ends, number, side="right"))
        inside = number - (int(self._ends[source - 1]) if source else 0)
        shards = self.sets[source]
        return prompt_of(shards.row(inside), shards.sequence(inside))

    def stream(self, *, per_step: int, seed: int) -> ShardStream:
        return ShardStream(
            self.sets,
            self.shares,
            per_step=per_step,
            seed=seed,
            window=self._config.window,
            reader=self._config.reader,
            threads=self._config.reader_threads or 1,
        )


class HeldOutQuestions(Sequence[Prompt]):
    """In the order of their ids, which are hashes: any number of the first is a fair sample."""

    def __init__(self, sets: Sequence[Shards]) -> None:
        self._sets = tuple(sets)
        places = [(s, n) for s, shards in enumerate(sets) for n in range(len(shards))]
        ids = np.concatenate([np.empty(0, np.uint64), *(shards.ids() for shards in sets)])
        self._places = [places[i] for i in np.argsort(ids, kind="stable")]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, place: int | slice) -> Prompt | tuple[Prompt, ...]:
        if isinstance(place, slice):
            return tuple(self[i] for i in range(*place.indices(len(self))))
        source, number = self._places[place]
        return prompt_of(self._sets[source].row(number), self._sets[source].sequence(number))
