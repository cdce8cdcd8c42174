"""Reinforcement learning for reasoning models, with control over where their entropy goes.

Importing this package imports nothing else: ``megaent.ops``, ``megaent.objective`` and
``megaent.methods`` need torch alone, the rest needs the ``train`` extra. Start reading at
``megaent.loop.trainer.Trainer.step``; docs/tour.md follows one prompt through it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["__version__", "config_folder"]
__version__ = "0.1.0"


def config_folder() -> Path:
    """The folder of the configuration groups: configs/ of a checkout, megaent_configs of a wheel."""
    spec = find_spec("megaent_configs")
    # A namespace package in a checkout: its path also holds a marker of the installer, which is no folder.
    folders = [Path(path) for path in (spec.submodule_search_locations or [])] if spec is not None else []
    for folder in folders:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        "the package megaent_configs, which holds the configuration files, is not installed; run "
        "`./scripts/setup` in a checkout, or `pip install --force-reinstall --no-deps megaent`"
    )
