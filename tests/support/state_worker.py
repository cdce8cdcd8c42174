"""Loads a demonstration's checkpoint and saves it again: ``python state_worker.py HF_FOLDER FROM TO TP``."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path

import torch

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import init_parallel
from megaent.actor.sizes import Sizes
from megaent.actor.state import load_state, save_state


def main(hf: Path, source: Path, target: Path, tp: int) -> None:
    layout = init_parallel(Sizes(tp=tp), device=torch.device("cpu"), timeout_s=60, seed=0)
    actor = MegatronActor(hf, layout, ActorOptions(), AdamOptions(lr=6e-4))
    load_state(actor, source)
    save_state(actor, target)
    layout.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.flush()
    # Megatron leaves non-daemon threads behind, and a server process that would keep our output open.
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(0)
