"""The words of a sweep: which choose, which all points share, and which are for the launcher."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from megaent import config_folder
from megaent.commands.halving import Halving, is_of_halving, read_halving
from megaent.config.composition import text_keys
from megaent.config.overrides import as_typed
from megaent.errors import ConfigError
from megaent.report.sweep_record import Point

_LONGEST_NAME = 120  # a file name may have 255 bytes
_REFUSED = {
    "run.until": "sweep.halving=3 sweep.first_steps=20 leaves settings of little promise early",
    "run.dir": "every point has a directory of its own; sweep.dir=DIR holds them all",
    "hydra.sweep.subdir": "a point's directory is named by its choices",
    "hydra/sweeper": "a sweep here takes every combination; hydra/launcher= says how many run at once",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepWords:
    common: tuple[str, ...]  # of every point, in the order given
    points: tuple[Point, ...]
    launcher: tuple[str, ...]  # hydra/launcher=… and its options
    folder: Path
    halving: Halving | None = None


def read_words(words: Sequence[str]) -> SweepWords:
    """Raises ConfigError for what is no override, and for keys that a sweep gives itself."""
    flags = [word for word in words if word.startswith("-") and word not in ("-m", "--multirun")]
    if flags:
        raise ConfigError(f"a sweep takes no {flags[0]}; `megaent train --cfg …` prints one configuration")
    overrides = _with_ready([word for word in words if not word.startswith("-")])
    for word in overrides:
        key = word.split("=", 1)[0].lstrip("+")
        if key in _REFUSED:
            raise ConfigError(f"a sweep takes no {word}: {_REFUSED[key]}")
    ours = [word for word in overrides if word.startswith("sweep.dir=") or is_of_halving(word)]
    chosen = [word for word in overrides if not word.startswith("hydra") and word not in ours]
    common, varied = _split(as_typed(chosen, text_keys=text_keys(), is_sweep=True))
    points = dict.fromkeys(tuple(sorted(words, key=_by_key)) for words in itertools.product(*varied))
    return SweepWords(
        common=tuple(common),
        points=tuple(Point(words=words, folder=folder_name(words)) for words in points),
        launcher=tuple(word for word in overrides if word.startswith("hydra") and not _is_folder(word)),
        folder=_folder(overrides),
        halving=read_halving(overrides),
    )


def _with_ready(words: Sequence[str]) -> list[str]:
    """``sweep=NAME`` as the words of configs/sweep/NAME.yaml, the first of all, so that others win."""
    names = [word.split("=", 1)[1] for word in words if word.startswith("sweep=")]
    ready = [word for name in names for word in _ready(name)]
    return [*ready, *(word for word in words if not word.startswith("sweep="))]


def _ready(name: str) -> list[str]:
    folder = config_folder() / "sweep"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"sweep={name} is unknown; {hint}")
    return yaml.safe_load((folder / f"{name}.yaml").read_text())


def _split(words: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The words with one value, and each word with several as a list of words with one."""
    common, varied = [], []
    last_of_each = {_parsed(word).get_key_element(): word for word in words}
    for key, word in last_of_each.items():
        override = _parsed(word)
        if override.is_sweep_override():
            varied.append([f"{key}={value}" for value in _choices(override, word)])
        else:
            common.append(word)
    return common, varied


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(f"{word!r} is no override: {' '.join(str(error).split())}") from error


def _choices(override: Override, word: str) -> list[str]:
    if override.is_discrete_sweep() and override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
        return list(override.sweep_string_iterator())
    raise ConfigError(
        f"{word}: a sweep takes every combination; list the choices: {override.key_or_group}=a,b"
    )


def _by_key(word: str) -> tuple[bool, str]:
    """By the alphabet, whatever order they were typed in; the seed is last."""
    return word.startswith("seed="), word


def folder_name(words: Sequence[str]) -> str:
    """The choices as a file name; another name for other choices.

    ``method=[less,kl_cov]`` becomes ``method=less+kl_cov-1d0c8a``: where a character had to be replaced, six
    digits of the words' sha256 keep names apart.
    """
    name = ",".join(words)
    lists = re.sub(r"=\[([^\[\]]*)\]", lambda match: "=" + match[1].replace(",", "+"), name)
    plain = re.sub(r"[^\w.,=+-]", "_", lists, flags=re.ASCII).lstrip(".-")[:_LONGEST_NAME]
    if plain != name:
        plain += f"-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    return plain if words else "defaults"


def _is_folder(word: str) -> bool:
    return word.startswith(("sweep.dir=", "hydra.sweep.dir="))


def _folder(words: Sequence[str]) -> Path:
    given = [word.split("=", 1)[1] for word in words if _is_folder(word)]
    if given and not given[-1]:
        raise ConfigError("sweep.dir= needs a directory")
    return Path(given[-1] if given else f"runs/sweep-{time.strftime('%Y%m%d-%H%M%S')}").absolute()
