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
            environment={name: str(record["environment"][name]) for name in record["environment"]},
            threads=int(record["threads"]),
            date=str(record.get("date", "")),
        )
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{run} holds no run: {COMMAND} is missing; give the directory of a run"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
