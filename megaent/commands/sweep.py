"""``megaent train -m``: Hydra's sweeper and launcher start one ordinary run per combination."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from megaent import config_folder
from megaent.config.composition import ROOT, expand_method_options, register, text_keys, to_typed
from megaent.config.overrides import as_typed
from megaent.config.paths import with_absolute_paths
from megaent.errors import MegaentError


def sweep(words: Sequence[str]) -> int:
    """Run every combination, each in ``<sweep dir>/<number>``; 0 when all succeeded."""
    register()
    flags = [word for word in words if word.startswith("-")]
    given = expand_method_options([word for word in words if not word.startswith("-")])
    overrides = as_typed(given, text_keys=text_keys(), is_sweep=True)
    sys.argv = ["megaent", *flags, *overrides]
    hydra.main(config_path=str(config_folder()), config_name=ROOT, version_base="1.3")(_job)()
    return 0


def _job(composed: DictConfig) -> None:
    from megaent.run.run import train

    job = HydraConfig.get()
    with open_dict(composed):
        composed.run.dir = job.runtime.output_dir
    try:
        config, text = to_typed(composed, check_files=True), OmegaConf.to_yaml(composed)
        train(config, text, with_absolute_paths(job.overrides.task, text))
    except MegaentError as error:
        # Hydra would print a traceback for anything but an exit.
        raise SystemExit(f"megaent: {error}") from error
