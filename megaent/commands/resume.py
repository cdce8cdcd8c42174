"""``megaent resume``: a run continued as it began, in its directory, under the same or another layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from megaent.commands.first_word import is_option
from megaent.errors import CheckpointError, ConfigError
from megaent.run.command_record import COMMAND, ENVIRONMENT, read_command


def resume(words: list[str], say: Callable[[str], None]) -> None:
    """``DIR [key=value …]``. Raises MegaentError."""
    if not words or is_option(words[0]):
        raise ConfigError("resume needs the directory of a run: megaent resume runs/…")
    if any(word.startswith("run.dir=") for word in words):
        raise ConfigError(
            "resume continues in the directory that it is given; to go on elsewhere copy the directory and "
            "resume the copy, without run.dir="
        )
    path = Path(words[0])
    say(f"continuing {path}")
    record = read_command(path)
    # Before torch is imported: some of them change what it computes.
    os.environ.update({name: record.environment[name] for name in ENVIRONMENT if name in record.environment})
    from megaent.config.composition import compose_config
    from megaent.config.fastest_dtype import require_named_dtype
    from megaent.config.overrides import quoted
    from megaent.config.paths import with_absolute_paths

    everything = [o for o in record.overrides if not o.startswith(("run.dir=", "run.threads="))]
    everything += [f"run.dir={quoted(str(path))}", f"run.threads={record.threads}"]
    # Prompts that show a date show the one on which the run began.
    everything += [f"data.date={record.date}"] if record.date else []
    everything += words[1:]
    config, text = compose_config(everything, check_files=True, say=say)
    require_named_dtype(config, "a run that goes on")
    recorded, began = list(record.overrides), compose_config(record.overrides)[1]
    goes_on = began
    if words[1:]:
        recorded = with_absolute_paths(_last_of_each([*record.overrides, *words[1:]]), text)
        goes_on = compose_config(recorded)[1]
    _refuse_other_defaults(path, _recorded_values(path, say), _values_of(began), words[1:])
    for change in _changes(_values_of(began), _values_of(goes_on)):
        say(f"from here on {change}")
    say("loading Megatron-Core")
    from megaent.run.run import train

    # The method may be changed by whoever says so; what no run survives is refused with the checkpoint.
    changed = ("method",) if any(word.startswith(("method=", "method.")) for word in words[1:]) else ()
    train(config, goes_on, recorded, is_resumed=True, changed=changed)


def _last_of_each(words: list[str]) -> list[str]:
    """Of several words for one key the last, which is the one that counts."""
    return list({word.split("=", 1)[0]: word for word in words}.values())


Values = dict[str, object]


def _recorded_values(run: Path, say: Callable[[str], None]) -> Values:
    """Of config.yaml; nothing where that cannot be read, which is said: it will be written again."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    file = run / "config.yaml"
    try:
        return _values(OmegaConf.to_container(OmegaConf.load(file)))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        cause = " ".join(str(error).split())[:100]
        say(
            f"{file} cannot be read ({cause}): it is written again from {COMMAND}, and whether a default has "
            "changed since the run began cannot be told"
        )
        return {}


def _refuse_other_defaults(run: Path, then: Values, now: Values, words: list[str]) -> None:
    """The recorded overrides must mean what they meant: a default that moved since would go unnoticed."""
    said = {word.split("=", 1)[0].lstrip("+") for word in words}
    moved = [key for key in then if key in now and then[key] != now[key] and key not in said]
    if moved:
        listed = " ".join(f"{key}={json.dumps(then[key])}" for key in moved)
        raise CheckpointError(
            f"{run} was started when {moved[0]} was {then[moved[0]]}, and this version of megaent makes it "
            f"{now[moved[0]]}; to continue as it began add {listed} to the command"
        )


def _changes(before: Values, after: Values) -> list[str]:
    """``rollout.group_size is 8, was 4`` for every value that the command changes."""
    return [
        f"{key} is {after.get(key, 'unset')}, was {before.get(key, 'unset')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key != "run.dir"
    ]


def _values_of(text: str) -> Values:
    from omegaconf import OmegaConf

    return _values(OmegaConf.to_container(OmegaConf.create(text)))


def _values(node: object, prefix: str = "") -> Values:
    """A nested configuration as ``{"optim.lr": 1e-6, …}``."""
    if not isinstance(node, dict):
        return {prefix: node}
    below = [_values(value, f"{prefix}.{name}" if prefix else name) for name, value in node.items()]
    return {key: value for part in below for key, value in part.items()}
