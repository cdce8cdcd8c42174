"""``hub:NAME[@REVISION][:CONFIG]:SPLIT``: a data set of the Hugging Face hub, or a folder laid out as one.

It is loaded by ``datasets``, from its cache where it lies there. From version 4 on ``datasets`` runs no code
that comes with a data set.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from megaent.errors import DataError, MissingDependency

PREFIX = "hub:"
_FORM = "hub:NAME:SPLIT or hub:NAME:CONFIG:SPLIT, for example hub:openai/gsm8k:main:train"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSplit:
    name: str  # openai/gsm8k, or a folder
    split: str
    config: str = ""  # "" where the set has but one
    revision: str = ""  # a commit, branch or tag; "" is the newest

    def __str__(self) -> str:
        name = f"{self.name}@{self.revision}" if self.revision else self.name
        return PREFIX + ":".join(filter(None, (name, self.config, self.split)))


def is_hub(path: str) -> bool:
    return path.startswith(PREFIX)


def read_split(path: str) -> HubSplit:
    """Raises DataError for what is no such name."""
    name, *rest = path.removeprefix(PREFIX).split(":")
    if not name or len(rest) not in (1, 2) or not all(rest):
        raise DataError(f"a data set of the hub is named {_FORM}; got {path}")
    name, _, revision = name.partition("@")
    return HubSplit(name=name, config=rest[0] if len(rest) == 2 else "", split=rest[-1], revision=revision)


def absolute(path: str) -> str:
    """A folder's name by its place from the root; a name of the hub as it is."""
    split = read_split(path)
    return str(replace(split, name=os.path.abspath(split.name)) if os.path.isdir(split.name) else split)


def require_loader(path: str) -> None:
    """Raises DataError for a name of another form, MissingDependency without ``datasets``."""
    read_split(path)
    if importlib.util.find_spec("datasets") is None:
        raise MissingDependency(f"{path} is loaded by `datasets`; run `pip install 'megaent[tasks]'`")


def hub_rows(path: str) -> Iterator[tuple[str, object]]:
    """Every row, in the set's order, with where it stands. Raises DataError where it cannot be loaded."""
    require_loader(path)
    import datasets
    from datasets.exceptions import DatasetsError

    split = read_split(path)
    try:
        loaded = datasets.load_dataset(
            split.name, split.config or None, split=split.split, revision=split.revision or None
        )
        for number, row in enumerate(loaded, start=1):
            yield f"{split} row {number}", row
    except (ValueError, OSError, DatasetsError) as error:
        cause = " ".join(str(error).split())[:300]
        raise DataError(
            f"{path} cannot be loaded: {cause}; expected {_FORM}, in the cache or within reach"
        ) from error
