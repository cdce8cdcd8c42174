"""Time of publishing a model to a real SGLang server, beside a bare gloo broadcast of the same bytes.

    python benchmarks/weight_sync.py --out FILE [--rounds 7] [--bucket-mib 64]

The model is a Qwen2 of 25 M fp32 parameters (102 MB) with a small vocabulary; the server runs on this
machine's CPU with one thread, as the trainer's side does. The bare broadcast goes to a process of the
server's interpreter, in buckets of the same size, and is over when that process says so. Every round runs
every variant once, one after the other, so that a change in the machine's load meets all of them; the file
holds each round's seconds and the medians are of those.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from server_on_cpu import PYTHON, start_server
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from megaent.bench.record import describe
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.sync.broadcast import BroadcastTransport
from megaent.sync.buckets import Bucketer
from megaent.sync.group import SendGroup
from megaent.sync.sender import SenderOptions, ServerSender

LIMIT_S = 300.0

RECEIVER = """
import sys, torch, torch.distributed as dist
name, port, sizes = sys.argv[1], int(sys.argv[2]), list(map(int, sys.argv[3:]))
store = dist.TCPStore("127.0.0.1", port, 2, False)
for prefix in (name, f"{name}/", "cpu/"):
    store = dist.PrefixStore(prefix, store)
group = dist.ProcessGroupGloo(store, 1, 2)
buffers = [torch.empty(size, dtype=torch.uint8) for size in sizes]
while True:
    for buffer in buffers:
        group.broadcast(buffer, 0).wait()
    print("there", flush=True)
"""


def save_model(folder: Path) -> dict[str, Tensor]:
    config = Qwen2Config(
        vocab_size=256,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=9,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    return {name: tensor.detach() for name, tensor in model.named_parameters()}


class Bare:
    """The buckets by one broadcast each, until the receiver says that they are there; nothing else."""

    def __init__(self, buckets: list[Tensor]) -> None:
        self._group = SendGroup(world_size=2, backend="gloo", address="127.0.0.1", timeout_s=LIMIT_S)
        sizes = [str(bucket.numel()) for bucket in buckets]
        command = [str(PYTHON), "-c", RECEIVER, self._group.name, str(self._group.port), *sizes]
        self._receiver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._group.join()
        self._buckets = buckets

    def __call__(self) -> None:
        for bucket in self._buckets:
            self._group.broadcast(bucket)
        assert self._receiver.stdout is not None
        answer = self._receiver.stdout.readline()
        assert answer == "there\n", f"the receiver said {answer!r}"

    def close(self) -> None:
        self._receiver.kill()
        self._receiver.wait(LIMIT_S)


class Publication:
    """``weights`` to the server, after a share of the tensors was changed."""

    def __init__(
        self,
        control: Control,
        url: str,
        weights: dict[str, Tensor],
        options: SenderOptions,
        *,
        changed: float,
    ) -> None:
        self._sender = ServerSender(control, BroadcastTransport(control, backend="gloo"), options)
        self._url = url
        self._weights = weights
        self._num_changed = round(changed * len(weights))
        self._version = 0
        self.num_bytes: list[int] = []

    def change(self) -> None:
        for tensor in list(self._weights.values())[: self._num_changed]:
            tensor.add_(1e-3)

    def __call__(self) -> None:
        self._version += 1
        report = self._sender.send(self._weights.items(), self._version, servers=[self._url])
        assert not report.failed, report.failed
        self.num_bytes.append(report.num_bytes)


def measure(bare: Bare, publications: dict[str, Publication], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, after one that is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in ("bare broadcast", *publications)}
    for number in range(num_rounds + 1):
        taken = {"bare broadcast": timed(bare)}
        for name, publication in publications.items():
            publication()  # another sender wrote to the server meanwhile, and this one must send everything
            publication.change()
            taken[name] = timed(publication)
        for name in seconds if number else ():
            seconds[name].append(taken[name])
    return seconds


def timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def publications_of(
    control: Control, url: str, weights: dict[str, Tensor], bucket_bytes: int
) -> dict[str, Publication]:
    def make(changed: float, *, only_changed: bool = False, check_every: int = 1) -> Publication:
        options = SenderOptions(
            dtype=torch.float32,
            device="cpu",
            bucket_bytes=bucket_bytes,
            only_changed=only_changed,
            check_every=check_every,
        )
        return Publication(control, url, weights, options, changed=changed)

    return {
        "everything": make(1.0, check_every=0),
        "everything, checked": make(1.0),
        "changed tensors, all changed, checked": make(1.0, only_changed=True),
        "changed tensors, one in ten, checked": make(0.1, only_changed=True),
        "changed tensors, none, checked": make(0.0, only_changed=True),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    weights = save_model(folder / "model")
    buckets = [bucket.data.clone() for bucket in Bucketer(options.bucket_mib * 2**20)(weights.items())]
    server = start_server(folder / "model", folder / "server.log", context_length=64, max_running_requests=4)
    connections = Connections()
    try:
        control = Control(connections, timeout_s=LIMIT_S)
        publications = publications_of(control, server.url, weights, options.bucket_mib * 2**20)
        bare = Bare(buckets)
        seconds = measure(bare, publications, options.rounds)
        bare.close()
        sglang = control.get(server.url, "/server_info")["version"]
    finally:
        connections.close()
        server.close()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "sglang": sglang,
        "bytes": sum(bucket.numel() for bucket in buckets),
        "buckets": len(buckets),
        "bytes_sent": {name: publication.num_bytes[-1] for name, publication in publications.items()},
        "seconds": seconds,
        "median_s": medians,
        "ratio_to_bare": {name: value / medians["bare broadcast"] for name, value in medians.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bucket-mib", type=int, default=64)
    options = parser.parse_args()
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    report = describe("cpu", shlex.join(["python", *sys.argv]))
    with tempfile.TemporaryDirectory() as folder:
        report |= run(options, Path(folder))
    report["machine"]["load_after"] = list(os.getloadavg())
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({name: report[name] for name in ("median_s", "ratio_to_bare")}, indent=2))


if __name__ == "__main__":
    main()
