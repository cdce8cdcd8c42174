"""Paths in a configuration mean the same in every folder: they are made absolute when they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from megaent.config.overrides import quoted
from megaent.data import hub

PATHS = ("model.path", "data.path", "data.eval_path", "rollout.python", "run.dir")


def make_absolute(composed: DictConfig) -> None:
    """In place, seen from the present folder; what has no value stays so.

    A leading ``~`` is the home folder: a shell leaves that to us after ``key=``.
    """
    for key in PATHS:
        value = OmegaConf.select(composed, key)
        if isinstance(value, str) and value:
            placed = hub.absolute(value) if hub.is_hub(value) else os.path.abspath(os.path.expanduser(value))
            OmegaConf.update(composed, key, placed)


def with_absolute_paths(overrides: Sequence[str], text: str) -> list[str]:
    """The overrides to record, their paths as in ``text``, the YAML of the configuration that they gave."""
    composed = OmegaConf.create(text)
    values = {key: OmegaConf.select(composed, key) for key in PATHS}
    kept = [word for word in overrides if word.split("=", 1)[0].lstrip("+") not in PATHS]
    return kept + [f"{key}={quoted(value)}" for key, value in values.items() if value]
