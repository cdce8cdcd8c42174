"""What a sandbox can be asked to do without; read at every start, so nothing heavy is imported."""

from __future__ import annotations

from megaent.errors import ConfigError

GIVEN_UP = {
    "namespaces": "programs then can read this machine's files, answer keys among them",
    "seccomp": "programs then can start processes and, without namespaces, use the network and change files",
}


def read_given_up(text: str) -> tuple[str, ...]:
    """``namespaces,seccomp``. Raises ConfigError for anything else."""
    names = tuple(filter(None, (name.strip() for name in text.split(","))))
    if set(names) - set(GIVEN_UP) or len(set(names)) < len(names):
        raise ConfigError(f"what a sandbox does without must be named from ({losses()}), got {text!r}")
    return names


def losses() -> str:
    """What is given up by each, in words."""
    return "; ".join(f"{name}: {loss}" for name, loss in GIVEN_UP.items())
