"""``megaent resume``: a run continued as it began, in its directory, under the same or another layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from megaent.errors import CheckpointError, ConfigError
from megaent.run.command_record import ENVIRONMENT, read_command


def resume(words: list[str], say: Callable[[str], None]) -> None:
    """``DIR [key=value …]``. Raises MegaentError."""
    if not words or ("=" in words[0] and not Path(words[0]).is_dir()):
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

    everything = [o for o in record.overrides if not o.startswith(("run.dir=", "run.threads="))]
    # Quoted, because Hydra has a meaning for = and , and ( in a value.
    directory = json.dumps(str(path), ensure_ascii=False)
    everything += [f"run.dir={directory}", f"run.threads={record.threads}"]
    # Prompts that show a date show the one on which the run began.
    everything += [f"data.date={record.date}"] if record.date else []
    everything += words[1:]
    config, text = compose_config(everything, check_files=True, say=say)
    _refuse_other_defaults(path, compose_config(record.overrides)[1], words[1:])
    say("loading Megatron-Core")
    from megaent.run.run import train

    train(config, text, everything, is_resumed=True)


def _refuse_other_defaults(run: Path, text: str, words: list[str]) -> None:
    """The recorded overrides must mean what they meant: a default that moved since would go unnoticed."""
    from omegaconf import OmegaConf

    then = _values(OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
    now = _values(OmegaConf.to_container(OmegaConf.create(text)))
    said = {word.split("=", 1)[0].lstrip("+") for word in words}
    moved = [key for key in then if key in now and then[key] != now[key] and key not in said]
    if moved:
        listed = " ".join(f"{key}={json.dumps(then[key])}" for key in moved)
        raise CheckpointError(
            f"{run} was started when {moved[0]} was {then[moved[0]]}, and this version of megaent makes it "
            f"{now[moved[0]]}; to continue as it began add {listed} to the command"
        )


def _values(node: object, prefix: str = "") -> dict[str, object]:
    """A nested configuration as ``{"optim.lr": 1e-6, …}``."""
    if not isinstance(node, dict):
        return {prefix: node}
    below = [_values(value, f"{prefix}.{name}" if prefix else name) for name, value in node.items()]
    return {key: value for part in below for key, value in part.items()}
