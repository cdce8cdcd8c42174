"""``data=shards``: what a run is told of its shards; without numpy, so that a mistake costs no time."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from megaent.data.grading import GradedOptions
from megaent.data.weights import read_weights
from megaent.errors import MissingDependency
from megaent.options import MISSING, require, require_positive

READERS = ("mapped", "memory", "dali")


@dataclass
class ShardsOptions(GradedOptions):
    """``data=shards`` (docs/shards.md)."""

    name: str = "shards"
    path: str = MISSING  # a folder of shards, or a folder of such folders
    eval_path: str = ""  # shards of evaluation questions; "" takes those held out when `path` was made
    weights: str = ""  # of the folders in it, by name: 3*gsm8k+math; "" weighs by their sizes
    window: int = 4096  # neighbours that are shuffled among each other
    reader: str = "mapped"  # mapped | memory | dali
    reader_threads: int = 0  # dali's; 0 is 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.reader in READERS, f"data.reader must be one of {', '.join(READERS)}, got {self.reader!r}"
        )
        require(
            self.reader_threads >= 0 and (not self.reader_threads or self.reader == "dali"),
            f"data.reader_threads={self.reader_threads} must be 0 or more, and is of data.reader=dali alone",
        )
        require(
            not self.train_prompts,
            f"data.train_prompts={self.train_prompts} has no effect on shards, which are asked whole; leave "
            "it out, or make shards of fewer questions",
        )
        require(
            not self.curriculum.by or (self.reader != "dali" and not self.weights),
            f"data.curriculum.by={self.curriculum.by} draws from all prompts alike, in no order of the "
            "files: data.weights and data.reader=dali have no effect then; leave them out",
        )
        require_positive("data", window=self.window)
        read_weights(self.weights)

    def require_files(self) -> None:
        from megaent.data.shards import require_questions

        for path in filter(None, (self.path, self.eval_path)):
            require_questions(Path(path))
        if self.reader == "dali" and not _is_installed("nvidia", "nvidia.dali"):
            raise MissingDependency(
                "data.reader=dali needs NVIDIA DALI; ./scripts/setup_dali makes an environment that has it "
                "beside megaent (.venv-dali/bin/megaent), or: pip install nvidia-dali-cuda130"
            )


def _is_installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)
