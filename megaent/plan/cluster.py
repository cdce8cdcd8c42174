"""Cards and links, as their data sheets state them, from a YAML file."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from megaent import config_folder
from megaent.errors import ConfigError

GENERATIONS = ("ampere", "hopper", "blackwell")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Rates are a card's own, in one direction, before any efficiency."""

    name: str
    generation: str  # ampere | hopper | blackwell: which constants hold
    bf16_tflops: float  # dense
    fp8_tflops: float  # dense; 0 where the card has none
    memory_gib: float  # what a process can allocate
    memory_gbps: float  # gigabytes a second
    cards_per_node: int  # joined by the fast link
    link_gbps: float  # between cards of a node
    network_gbps: float  # between nodes, for each card
    host_gbps: float  # to the host's memory
    clock_share: float = 1.0  # of the data sheet's clock under load, where power is capped
    price: float = 0.0  # of a card for an hour, in any currency; 0: costs are not shown
    source: str = ""


def find_cluster(name: str) -> Cluster:
    """The cluster of that name in configs/cluster, or of that YAML file. Raises ConfigError."""
    if name.endswith((".yaml", ".yml")):
        return read_cluster(Path(name))
    known = re.sub(r"(\d)gb$", r"\1", re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"))
    folder = config_folder() / "cluster"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    found = "a100_80" if known == "a100" else known
    if found not in names:
        near = difflib.get_close_matches(found, names, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(
            f"cluster={name} is unknown; {hint}known are {', '.join(names)}, or give the path of a .yaml file"
        )
    return read_cluster(folder / f"{found}.yaml")


def read_cluster(path: Path) -> Cluster:
    """Raises ConfigError for a file that is absent, no mapping, or lacks or misspells a field."""
    if not path.is_file():
        raise ConfigError(f"cluster={path} is no file")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold `field: value` lines, got a {type(values).__name__}")
    known = {item.name: item for item in fields(Cluster)}
    _refuse_unknown(path, values, list(known))
    required = [name for name, item in known.items() if item.default is MISSING]
    lacking = [name for name in required if name not in values]
    if lacking:
        raise ConfigError(
            f"{path} lacks {', '.join(lacking)}; configs/cluster/h100.yaml shows every field with its unit"
        )
    checked = {name: _checked(path, name, known[name].type, value) for name, value in values.items()}
    return Cluster(**checked)


def _refuse_unknown(path: Path, values: dict, known: list[str]) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{path}: there is no field {name!r}; {hint}")


def _checked(path: Path, name: str, kind: object, value: Any) -> Any:
    if kind == "str":
        if not isinstance(value, str) or (name == "generation" and value not in GENERATIONS):
            expected = f"one of {', '.join(GENERATIONS)}" if name == "generation" else "text"
            raise ConfigError(f"{path}: {name} must be {expected}, got {value!r}")
        return value
    is_number = isinstance(value, int if kind == "int" else (int, float)) and not isinstance(value, bool)
    lowest = 0 if name in ("fp8_tflops", "price") else 1e-9
    if not is_number or not math.isfinite(value) or value < lowest:
        wanted = "a whole number" if kind == "int" else "a number"
        raise ConfigError(f"{path}: {name} must be {wanted} of {lowest:.2g} or more, got {value!r}")
    return value
