"""How a run was started, kept so that ``resume`` can start it again; imports nothing heavy.

Environment variables that can change a number must be set before torch is imported, so this is read
before anything else is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megaent.errors import CheckpointError

COMMAND = "command.json"
MOST_THREADS = 1024
ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "TORCHDYNAMO_DISABLE",
    "TRITON_INTERPRET",
    "MEGAENT_OPS_BACKEND",
    "MEGAENT_OPS_SIMD",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    overrides: tuple[str, ...]
    environment: dict[str, str]
    threads: int  # of torch, in each process
    date: str = ""  # that the chat template wrote into the prompts, YYYY-MM-DD; "" where it wrote none


def _environment(values: dict[str, str]) -> dict[str, str]:
    """Raises ValueError for what no process can have, or no library could use."""
    for name, value in values.items():
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(f"environment.{name} must be printable text, got {value!r}")
    threads = values.get("OMP_NUM_THREADS")
    if threads is not None:
        for count in threads.split(","):
            _threads(int(count))
    return dict(values)


def _threads(count: object) -> int:
    if type(count) is not int or not 1 <= count <= MOST_THREADS:
        raise ValueError(f"a number of threads must be 1 to {MOST_THREADS}, got {count!r}")
    return count


def render_command(overrides: Sequence[str], *, threads: int, date: str = "") -> str:
    """The text of command.json for this process."""
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    record = {"overrides": list(overrides), "environment": environment, "threads": threads}
    record |= {"date": date} if date else {}
    return json.dumps(record, indent=2) + "\n"


def read_command(run: Path) -> CommandRecord:
    """The record in the directory ``run``. Raises CheckpointError when there is none that can be read."""
    file = run / COMMAND
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return CommandRecord(
            overrides=tuple(str(item) for item in record["overrides"]),
            environment=_environment(record["environment"]),
            threads=_threads(record["threads"]),
            date=str(record.get("date", "")),
        )
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{run} holds no run: {COMMAND} is missing; give the directory of a run"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{file} cannot be read: {cause}; restore it from a copy, or write it anew: overrides as in the "
            'command that began the run, "environment": {}, and "threads"'
        ) from error
