"""What the conversion's tests run in processes of their own.

layouts JOBS            under torchrun: load converted weights, or save a run's checkpoint, in each layout
memory SOURCE TARGET    one process: convert there and back, and print the memory that it took
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
from pathlib import Path

import torch


def layouts(jobs: Path) -> None:
    for job in json.loads(jobs.read_text()):
        run(job)
    torch.distributed.barrier()


def run(job: dict) -> None:
    """Save weights under ``job["out"]`` as the actor names them: converted ones, or those of a checkpoint."""
    from megatron.core import parallel_state

    from megaent.actor.megatron_actor import ActorOptions, MegatronActor
    from megaent.actor.optimizer import AdamOptions
    from megaent.actor.parallel import init_parallel
    from megaent.actor.sizes import Sizes

    layout = init_parallel(Sizes(**job["layout"]), device=torch.device("cpu"), timeout_s=60, seed=1)
    actor = MegatronActor(Path(job["hf"]), layout, ActorOptions(dtype=job["dtype"]), AdamOptions(lr=1e-3))
    if job["action"] == "load":
        load(actor, Path(job["converted"]))
    else:
        checkpoint(actor, Path(job["run"]))
    weights = {name: value.clone() for name, value in actor.named_weights()}
    if layout.rank == 0:
        torch.save(weights, job["out"])
    parallel_state.destroy_model_parallel()


def load(actor, converted: Path) -> None:
    """By Megatron's own loader, into weights that hold nothing of the model."""
    from megatron.core import dist_checkpointing, parallel_state

    for model in actor.models:
        for parameter in model.parameters():
            parameter.data.fill_(7.0)
    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    state = {
        f"model{number}": model.sharded_state_dict(metadata={"dp_cp_group": group})
        for number, model in enumerate(actor.models)
    }
    loaded = dist_checkpointing.load(state, str(converted / "model"))
    assert isinstance(loaded, dict)
    for number, model in enumerate(actor.models):
        model.load_state_dict(loaded[f"model{number}"])


def checkpoint(actor, run_directory: Path) -> None:
    """Two checkpoints of a run whose weights went away from those it began with."""
    from megaent.actor.state import save_state
    from megaent.run.checkpoint import CheckpointStore, save_checkpoint

    store = CheckpointStore(run_directory / "checkpoints", keep=2)
    for step in (1, 2):
        with torch.no_grad():
            for model in actor.models:
                for parameter in model.parameters():
                    parameter.mul_(1 + step / 16)
        save_checkpoint(
            store,
            step,
            write_model=lambda folder: save_state(actor, folder),
            state={"step": step},
            ranks=actor.layout,
        )


# ---------------------------------------------------------------- memory


class Memory:
    """The most anonymous memory this process has while the block runs, beyond ``before``.

    Not ``ru_maxrss``: pages of a mapped file count there, though the system may drop them at any time.
    """

    def __init__(self, before: int) -> None:
        self._before = before
        self.added = 0

    def __enter__(self) -> Memory:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.added = max(self.added, anonymous_bytes() - self._before)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=10)


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


def memory(source: Path, folder: Path) -> None:
    from safetensors.torch import load_file

    from megaent.commands.convert import convert

    before = anonymous_bytes()
    with Memory(before) as there:
        convert(source, folder / "megatron", report=lambda _: None)
    with Memory(before) as back:
        convert(folder / "megatron", folder / "back", report=lambda _: None, bytes_per_file=48 * 2**20)
    with Memory(before) as everything:
        held = [{k: v.clone() for k, v in load_file(f).items()} for f in source.glob("*.safetensors")]
    assert held
    print(json.dumps({"there": there.added, "back": back.added, "everything": everything.added}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "layouts":
        layouts(Path(sys.argv[2]))
    else:
        memory(Path(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.flush()
    # Megatron leaves non-daemon threads behind, and a server process that would keep our output open.
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(0)
