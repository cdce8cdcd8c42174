"""The models that ``model=`` can name: what is known of each beforehand, and its Hugging Face folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from megaent.actor.options import ModelOptions
from megaent.actor.sizes import Divisible
from megaent.data.options import DataOptions
from megaent.model_folder.contents import check_folder
from megaent.small_models.options import DemoModelOptions
from megaent.small_models.warmup import make_demo_model, wait_for_demo_model
from megaent.small_models.warmup_recipe import recipe_of

Say = Callable[[str], None]


def cache_folder() -> Path:
    """Of models made on this machine: MEGAENT_CACHE, or ~/.cache/megaent."""
    return Path(os.environ.get("MEGAENT_CACHE", Path.home() / ".cache" / "megaent"))


def check_model(model: ModelOptions, data: DataOptions) -> None:
    """Refuse a model that does not know the task's tokens. Raises ConfigError."""
    _entry(model).check(model, data)


def shape(model: ModelOptions) -> Divisible:
    """The sizes that a layout divides, before the model is loaded or made."""
    return _entry(model).shape(model)


def model_folder(model: ModelOptions, data: DataOptions, *, say: Say, timeout_s: float) -> Path:
    """The Hugging Face folder to start from; the demonstration's is made by rank 0 and cached."""
    return _entry(model).folder(model, data, say, timeout_s)


def _entry(model: ModelOptions) -> Entry:
    return next(entry for entry in MODELS.values() if entry.options is type(model))


def _made(model: DemoModelOptions, data: DataOptions, say: Say, timeout_s: float) -> Path:
    if int(os.environ.get("RANK", "0")) == 0:
        return make_demo_model(model, data, cache_dir=cache_folder(), report=say)
    return wait_for_demo_model(model, data, cache_dir=cache_folder(), timeout_s=timeout_s)


class Entry(NamedTuple):
    options: type[ModelOptions]
    check: Callable[[Any, DataOptions], object]
    shape: Callable[[Any], Divisible]
    folder: Callable[[Any, DataOptions, Say, float], Path]


MODELS = {
    "hf": Entry(
        options=ModelOptions,
        check=lambda model, data: None,
        shape=lambda model: check_folder(Path(model.path)),
        folder=lambda model, data, say, timeout_s: Path(model.path),
    ),
    "demo": Entry(options=DemoModelOptions, check=recipe_of, shape=lambda model: model, folder=_made),
}
