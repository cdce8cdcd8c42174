"""Trains two steps by each of the given methods in one process: ``python every_method.py FOLDER NAME …``."""

from __future__ import annotations

import sys
from pathlib import Path

from support.runs import DEMO

from megaent.cli import main

SMALL = ("steps=2", "checkpoint.every=0", "data.train_prompts=64")
# What the methods need to know of a task of 24 tokens a response.
WORDS = {
    "dapo": ("method.max_length=24", "method.buffer=8"),
    "dr_grpo": ("method.constant_length=24",),
    "egrc": ("method.max_length=16", "method.explore_max_new_tokens=24"),
    "ee": ("method.max_length=16",),
    "sent": ("method.responses=2",),
    "etr": ("method.form=released",),
    "siren": ("method.anchor=0.5",),
    "stare": ("method.target=5.0",),
    "pear": ("method.thinking_end=so",),
    "linear_length": ("method.max_length=24",),
    "cosine_reward": ("method.max_length=24",),
}


def train_all(folder: Path, names: list[str]) -> None:
    for name in names:
        words = (*DEMO, *SMALL, f"method={name}", *WORDS.get(name, ()), f"run.dir={folder / name}")
        code = main(["train", *words])
        if code:
            raise SystemExit(f"{name} ended with {code}")


if __name__ == "__main__":
    train_all(Path(sys.argv[1]), sys.argv[2:])
