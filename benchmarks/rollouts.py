"""Tokens a second from a real SGLang server: through the client, through bare sockets, and embedded.

    python benchmarks/rollouts.py --out FILE [--rounds 7] [--in-flight 64] [--responses 192] [--tokens 128]

The demonstration's model in fp32 on this machine's CPU, one thread for the server and one for this process.
Bare sockets send bodies that were written beforehand and read answers whose content nobody looks at, so they
show what the server can do; what the client costs is the difference. Every round runs every variant once,
one after the other; the file holds each round's seconds and the medians are of those.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from server_on_cpu import start_server

from megaent.bench.record import describe
from megaent.data.chain_sum import ChainSumOptions, load_chain_sum
from megaent.rollout.embedded.engine import EmbeddedEngine
from megaent.rollout.options import Leader
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.options import SGLangOptions
from megaent.rollout.sglang.wire import Question
from megaent.run.launch_sglang import start_sglang
from megaent.small_models.options import DemoModelOptions
from megaent.small_models.warmup import CONTEXT, make_demo_model
from megaent.types import Group, Prompt, RolloutRequest, SamplingParams

GROUP_SIZE = 8


class BareSockets:
    """One connection for each request under way, HTTP/1.1 kept alive, nothing parsed but the length."""

    def __init__(self, url: str, questions: list[Question], in_flight: int) -> None:
        self._host, port = url.removeprefix("http://").split(":")
        self._port, self._in_flight = int(port), in_flight
        self._questions = questions
        self._round = 0

    def __call__(self) -> None:
        self._round += 1
        asyncio.run(self._run())

    async def _run(self) -> None:
        waiting = [self._message(question) for question in reversed(self._questions)]
        await asyncio.gather(*(self._connection(waiting) for _ in range(self._in_flight)))

    def _message(self, question: Question) -> bytes:
        body = json.dumps(question.body() | {"rid": f"{question.rid}-{self._round}"}).encode()
        head = f"POST /generate HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def _connection(self, waiting: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        while waiting:
            writer.write(waiting.pop())
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
        writer.close()


class Engine:
    """An engine's ``generate``, whose answers are counted."""

    def __init__(
        self, generate: Callable[..., list[Group]], requests: list[RolloutRequest], sampling: SamplingParams
    ) -> None:
        self._generate, self._requests, self._sampling = generate, requests, sampling

    def __call__(self) -> None:
        groups = self._generate(self._requests, self._sampling)
        lengths = {len(response.tokens) for group in groups for response in group.responses}
        assert lengths == {self._sampling.max_new_tokens}, lengths


def measure(variants: dict[str, Callable[[], None]], num_rounds: int) -> dict[str, dict[str, list[float]]]:
    """Wall and processor seconds of this process, of every round after one that is thrown away."""
    found: dict[str, dict[str, list[float]]] = {name: {"wall_s": [], "cpu_s": []} for name in variants}
    for number in range(num_rounds + 1):
        for name, variant in variants.items():
            before, started = processor_seconds(), time.perf_counter()
            variant()
            if number:
                found[name]["wall_s"].append(time.perf_counter() - started)
                found[name]["cpu_s"].append(processor_seconds() - before)
    return found


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    model = make_demo_model(DemoModelOptions(), ChainSumOptions(), cache_dir=folder)
    prompts: list[Prompt] = list(load_chain_sum(ChainSumOptions(), model).train)
    sampling = SamplingParams(max_new_tokens=options.tokens)
    requests = [
        RolloutRequest(index=place, prompt=prompt, seeds=tuple(range(GROUP_SIZE)))
        for place, prompt in enumerate(prompts[: options.responses // GROUP_SIZE])
    ]
    embedded = EmbeddedEngine(model, dtype=torch.float32, batch_size=options.in_flight)
    vocab_size = next(tensor for name, tensor in embedded.weights() if "embed" in name).shape[0]
    server = start_server(
        model,
        folder / "server.log",
        context_length=CONTEXT,
        max_running_requests=options.in_flight,
    )
    try:
        config = SGLangOptions(urls=[server.url], concurrency=options.in_flight)
        engine = start_sglang(
            config,
            Leader(
                model=model,
                run=folder,
                number=0,
                vocab_size=vocab_size,
                context_length=CONTEXT,
                dtype="float32",
                device=torch.device("cpu"),
            ),
        )
        engine.receive_weights(embedded.weights(), version=0)
        questions = [
            Question(
                rid=f"bare-{request.index:04d}-{seed}",
                tokens=request.prompt.tokens,
                sampling=sampling,
                vocab_size=vocab_size,
                cache_key="0",
            )
            for request in requests
            for seed in request.seeds
        ]
        variants: dict[str, Callable[[], None]] = {
            "bare sockets": BareSockets(server.url, questions, options.in_flight),
            "client": Engine(engine.generate, requests, sampling),
            "embedded": Engine(embedded.generate, requests, sampling),
        }
        found = measure(variants, options.rounds)
        connections = Connections()
        sglang = Control(connections).get(server.url, "/server_info")["version"]
        connections.close()
        engine.close()
    finally:
        server.close()
    return summary(found, num_tokens=len(questions) * options.tokens) | {"sglang": sglang}


def summary(found: dict[str, dict[str, list[float]]], *, num_tokens: int) -> dict[str, object]:
    wall = {name: statistics.median(taken["wall_s"]) for name, taken in found.items()}
    cpu = {name: statistics.median(taken["cpu_s"]) for name, taken in found.items()}
    return {
        "tokens": num_tokens,
        "rounds": found,
        "median_tokens_per_s": {name: num_tokens / seconds for name, seconds in wall.items()},
        "median_cpu_s": cpu,
        "client_overhead": wall["client"] / wall["bare sockets"] - 1,
        "client_cpu_share": cpu["client"] / wall["client"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--responses", type=int, default=192)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = describe("cpu", shlex.join(["python", *sys.argv]))
    with tempfile.TemporaryDirectory() as folder:
        report |= run(options, Path(folder))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    shown = ("median_tokens_per_s", "median_cpu_s", "client_overhead", "client_cpu_share")
    print(json.dumps({name: report[name] for name in shown}, indent=1))


if __name__ == "__main__":
    main()
