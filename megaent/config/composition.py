"""From overrides to a typed configuration: Hydra composes, the schema types, and mistakes are explained."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, field, fields, is_dataclass, make_dataclass

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megaent import config_folder
from megaent.actor.precision import PRECISIONS
from megaent.actor.sizes import Divisible, world_size
from megaent.config.overrides import as_typed
from megaent.config.paths import make_absolute
from megaent.data.registry import TASKS
from megaent.errors import ConfigError
from megaent.methods import METHODS, build_method
from megaent.methods.options import options_of
from megaent.options import require
from megaent.run.config import TrainConfig
from megaent.run.engines import ENGINES
from megaent.run.models import MODELS, check_model, shape

ROOT = "train"

Say = Callable[[str], object]


def _silent(_: str) -> None: ...


def register() -> None:
    """Put the schema, the groups and one typed node per method into Hydra's ConfigStore."""
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    for group, nodes in _GROUPS.items():
        for name, node in nodes.items():
            store.store(group=group, name=name, node=node)
    for name in METHODS:
        store.store(group="method", name=name, node=_node(name), package=f"method.{name}")


_GROUPS: dict[str, dict[str, type]] = {
    group: {name: entry.options for name, entry in registry.items()}
    for group, registry in (("model", MODELS), ("data", TASKS), ("rollout", ENGINES))
} | {"precision": dict(PRECISIONS)}


def _node(method: str) -> type:
    """The options of a method as a dataclass for Hydra: same names, types and defaults."""
    options = [(name, kind, field(default=default)) for name, kind, default in options_of(method)]
    return make_dataclass(f"{method}_options", options)


def compose_config(
    overrides: Sequence[str], *, check_files: bool = False, say: Say = _silent
) -> tuple[TrainConfig, str]:
    """The typed configuration of ``overrides`` and its YAML text.

    ``say`` is told what takes its time. With ``check_files`` the model's and the task's files are looked at
    too. What can be refused without torch is refused before it is imported. Raises ConfigError for an unknown
    key (with the nearest known ones), a wrong type or a value that a check refuses, ModelError and DataError
    for files that are not there.
    """
    register()
    expanded = as_typed(expand_method_options(list(overrides)), text_keys=text_keys())
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = compose(ROOT, overrides=expanded)
    except HydraException as error:
        raise ConfigError(_explain(error)) from error
    try:
        return to_typed(composed, check_files=check_files, say=say), OmegaConf.to_yaml(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def to_typed(composed: DictConfig, *, check_files: bool = False, say: Say = _silent) -> TrainConfig:
    """Dataclasses all the way down, checked; a missing value names its key."""
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; add {missing[0]}=… to the command")
    make_absolute(composed)
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(config, TrainConfig), f"composed a {type(config).__name__}"
    values = OmegaConf.to_container(composed)
    _require_known(values, config)
    _require_finite(values)
    check_run(config)
    if check_files:
        config.data.require_files()
        sizes = shape(config.model)
        config.parallel.sizes.check(sizes, world_size())
        check_experts(config, sizes)
        config.parallel.shares_optimizer(world_size())
    say("loading PyTorch")
    config.method = build_method({name: asdict(options) for name, options in config.method.items()})
    return config


def _require_known(values: object, options: object, path: str = "") -> None:
    """Raises ConfigError for a key that ``+`` added: nothing would read it."""
    if not isinstance(values, dict) or not is_dataclass(options):
        return
    known = {item.name for item in fields(options)}
    for name, value in values.items():
        key = f"{path}.{name}" if path else str(name)
        if name not in known:
            raise ConfigError(_unknown(key))
        _require_known(value, getattr(options, name), key)


def _require_finite(node: object, key: str = "") -> None:
    """No number of a run may be infinite or nan: comparisons with it are false, and checks pass over it."""
    if isinstance(node, dict):
        for name, value in node.items():
            _require_finite(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, float):
        require(math.isfinite(node), f"{key} must be a finite number, got {node}")


def check_experts(config: TrainConfig, model: Divisible) -> None:
    """What a mixture of experts cannot be trained with so far."""
    has_experts = bool(getattr(model, "experts", None))
    config.model.router.check(
        has_experts=has_experts, sizes=config.parallel.sizes, recompute=config.model.recompute
    )
    if not has_experts:
        return
    require(
        config.model.implementation == "local",
        f"model.implementation={config.model.implementation} has no experts here yet: their grouped products "
        "are not converted; set model.implementation=local",
    )


def check_run(config: TrainConfig) -> None:
    """What only the whole configuration can tell."""
    require(
        config.optim.minibatches <= config.rollout.prompts_per_step,
        f"optim.minibatches={config.optim.minibatches} exceeds rollout.prompts_per_step="
        f"{config.rollout.prompts_per_step}: minibatches are whole groups; lower the first"
        " or raise the second",
    )
    check_model(config.model, config.data)


def expand_method_options(overrides: list[str]) -> list[str]:
    """``method.coef=1`` is short for ``method.<name>.coef=1`` when there is one method."""
    chosen = [o.split("=", 1)[1] for o in overrides if o.startswith("method=")]
    names = [name.strip() for name in chosen[-1].strip("[]").split(",")] if chosen else ["grpo"]

    def expand(override: str) -> str:
        match = re.match(r"method\.(\w+)(?=[=])", override)
        if match is None or match.group(1) in METHODS:
            return override
        if len(names) > 1:
            option = match.group(1)
            owners = [n for n in names if n in METHODS and option in {known.name for known in options_of(n)}]
            raise ConfigError(
                f"method.{option} could belong to any of {', '.join(names)}; write "
                f"{' or '.join(f'method.{n}.{option}' for n in owners or names)}"
            )
        return f"method.{names[0]}.{override.removeprefix('method.')}"

    return [expand(override) for override in overrides]


def _explain(error: Exception) -> str:
    """Hydra's own words, with the nearest known keys for a mistyped one and the cause of a wrong type."""
    text = " ".join(str(error).split())
    unknown = re.search(r"Could not override '([\w.]+)'|Key '(\w+)' (?:is not in struct|not in)", text)
    if unknown is not None:
        return _unknown(unknown.group(1) or unknown.group(2))
    cause = error.__cause__
    if cause is not None:
        text += ": " + " ".join(str(cause).split()).split(" full_key")[0]
    group = re.search(r"override ([\w.]+)=.*Invalid type assigned: \w+ is not a subclass of (\w+)", text)
    if group is None:
        return text.split(" Config search path")[0]
    key, kind = group.groups()
    own = next(fields(node) for node in _nodes() if node.__name__ == kind)
    names = ", ".join(f"{key}.{item.name}" for item in own)
    return f"{key} has options of its own and no value; set one of {names}"


def _unknown(key: str) -> str:
    """A key that does not exist, and those whose names are the nearest."""
    paths = known_keys()
    names = {path.rpartition(".")[2] for path in paths}
    last = key.rpartition(".")[2]
    near = [last] if last in names else difflib.get_close_matches(last, sorted(names), n=3)
    meant = [path for name in near for path in paths if path.rpartition(".")[2] == name][:3]
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"there is no configuration key {key!r}; {hint}`megaent train --cfg` prints them all"


def text_keys() -> set[str]:
    """Names of the options that hold text; nowhere are they lists or numbers as well. A group's is none."""
    text = {item.name for node in _nodes() for item in fields(node) if item.type in ("str", "Optional[str]")}
    return text - {item.name for item in fields(TrainConfig)}


def known_keys() -> list[str]:
    """Every key by its whole path: ``optim.lr``, ``model.recompute.granularity``, ``method.clip_high``."""
    found = dict.fromkeys(_paths(TrainConfig, ""))
    for group, nodes in _GROUPS.items():
        found |= dict.fromkeys(path for node in nodes.values() for path in _paths(node, f"{group}."))
    options = (option.name for method in METHODS for option in options_of(method))
    return list(found | dict.fromkeys(f"method.{name}" for name in options))


def _paths(node: type, before: str) -> Iterator[str]:
    for item in fields(node):
        yield before + item.name
        if isinstance(item.default_factory, type) and is_dataclass(item.default_factory):
            yield from _paths(item.default_factory, f"{before}{item.name}.")


def _nodes() -> list[type]:
    """Every family's options, and those that they hold."""
    waiting = [TrainConfig, *(node for group in _GROUPS.values() for node in group.values())]
    found: dict[type, None] = {}
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            held = (item.default_factory for item in fields(node))
            waiting += [kind for kind in held if isinstance(kind, type) and is_dataclass(kind)]
    return list(found)
