"""The words of a sweep: which choose, which all points share, and which are for the launcher."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, ValueType
from hydra.errors import HydraException

from megaent import config_folder
from megaent.commands.halving import Halving, read_halving, whole
from megaent.commands.search import SearchWords, read_goals
from megaent.config.composition import text_keys
from megaent.config.overrides import as_typed
from megaent.errors import ConfigError
from megaent.report.sweep_record import Point

_LONGEST_NAME = 120  # a file name may have 255 bytes
_OURS = ("sweep.dir=", "sweep.halving=", "sweep.first_steps=", "sweep.trials=", "sweep.goals=")
_REFUSED = {
    "run.until": "sweep.halving=3 sweep.first_steps=20 leaves settings of little promise early",
    "run.dir": "every point has a directory of its own; sweep.dir=DIR holds them all",
    "hydra.sweep.subdir": "a point's directory is named by its choices",
    "hydra/sweeper": "a sweep takes every combination, or with sweep.trials=20 those that Optuna chooses",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepWords:
    common: tuple[str, ...]  # of every point, in the order given
    points: tuple[Point, ...]
    launcher: tuple[str, ...]  # hydra/launcher=… and its options
    folder: Path
    halving: Halving | None = None
    search: SearchWords | None = None  # where it is given, ``points`` are found under way


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
    ours = [word for word in overrides if word.startswith(_OURS)]
    chosen = [word for word in overrides if not word.startswith("hydra") and word not in ours]
    common, varied = _split(as_typed(chosen, text_keys=text_keys(), is_sweep=True))
    search = _search(ours, varied)
    return SweepWords(
        common=tuple(common),
        points=_combinations(varied) if search is None else (),
        search=search,
        launcher=tuple(word for word in overrides if word.startswith("hydra") and not _is_folder(word)),
        folder=_folder(overrides),
        halving=read_halving(overrides),
    )


def _combinations(varied: Mapping[str, Override]) -> tuple[Point, ...]:
    every = itertools.product(*(_choices(key, override) for key, override in varied.items()))
    different = dict.fromkeys(tuple(sorted(words, key=_by_key)) for words in every)
    return tuple(point_of(words) for words in different)


def point_of(words: Sequence[str]) -> Point:
    return Point(words=tuple(words), folder=folder_name(words))


def _search(ours: Sequence[str], varied: Mapping[str, Override]) -> SearchWords | None:
    """What ``sweep.trials=`` asks for; None without it. Raises ConfigError."""
    given = dict(word.split("=", 1) for word in ours)
    trials, goals = given.get("sweep.trials"), given.get("sweep.goals")
    if trials is None:
        if goals is not None:
            raise ConfigError(f"sweep.goals={goals} needs sweep.trials=20 beside it")
        return None
    if read_halving(ours) is not None:
        raise ConfigError("a sweep has sweep.trials or sweep.halving, not both")
    space = {key: _values(key, override) for key, override in varied.items() if key != "seed"}
    if not space:
        raise ConfigError("sweep.trials needs something to choose: optim.lr=interval(1e-4,1e-2), or a,b")
    seeds = tuple(_choices("seed", varied["seed"])) if "seed" in varied else ()
    number = whole("sweep.trials", trials, least=1)
    return SearchWords(trials=number, goals=read_goals(goals or "accuracy"), space=space, seeds=seeds)


def _values(key: str, override: Override) -> Sequence[str] | IntervalSweep:
    if override.is_interval_sweep():
        interval = override.value()
        assert isinstance(interval, IntervalSweep)
        return interval
    return [word.split("=", 1)[1] for word in _choices(key, override)]


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


def _split(words: Sequence[str]) -> tuple[list[str], dict[str, Override]]:
    """The words with one value, and by key those with several."""
    common, varied = [], {}
    last_of_each = {_parsed(word).get_key_element(): word for word in words}
    for key, word in last_of_each.items():
        override = _parsed(word)
        if override.is_sweep_override():
            varied[key] = override
        else:
            common.append(word)
    return common, varied


def _parsed(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(f"{word!r} is no override: {' '.join(str(error).split())}") from error


def _choices(key: str, override: Override) -> list[str]:
    """As words with one value each."""
    if override.is_discrete_sweep() and override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    if key == "seed":
        raise ConfigError(f"{override.input_line}: list the seeds, seed=0,1,2 or seed=range(0,3)")
    raise ConfigError(
        f"{override.input_line}: a sweep takes every combination; list the choices: {key}=a,b; from an "
        "interval settings are drawn with sweep.trials=20"
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
