"""Engines over servers that misbehave on command, and over a real one that is started once."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from support.faulty_server import VOCABULARY, FaultyServer
from support.real_server import PYTHON, START_LIMIT_S, Truth, start_servers
from torch import Tensor

from megaent.data.chain_sum import ChainSumOptions, load_chain_sum
from megaent.errors import EngineError
from megaent.rollout.sglang.client import Client, ClientOptions
from megaent.rollout.sglang.colocation import Colocation
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control, PauseMode
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.rollout.sglang.fleet import Fleet, Member
from megaent.rollout.sglang.ledger import Ledger
from megaent.rollout.sglang.server import Server
from megaent.small_models.options import DemoModelOptions
from megaent.small_models.warmup import CONTEXT as DEMO_CONTEXT
from megaent.small_models.warmup import make_demo_model
from megaent.sync.broadcast import BroadcastTransport
from megaent.sync.sender import SenderOptions, ServerSender
from megaent.types import Metrics, Prompt, RolloutRequest

CONTEXT = 200


@dataclass(frozen=True, slots=True)
class Named:
    failed: Mapping[str, str] = field(default_factory=dict)

    def metrics(self) -> Metrics:
        return {}


class VersionOnly:
    """Names the version and moves no weights: enough for servers that have none."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.unreachable: dict[str, str] = {}

    def send(
        self, named_tensors: Iterable[tuple[str, Tensor]], version: int, *, servers: Sequence[str]
    ) -> Named:
        for _ in named_tensors:
            pass
        body = {"new_version": str(version), "abort_all_requests": False}
        calls = self._control.begin_post("/update_weight_version", dict.fromkeys(servers, body))
        return Named({url: str(out) for url, out in calls.outcomes().items() if isinstance(out, Exception)})

    def close(self) -> None:
        pass


@pytest.fixture
def control() -> Iterator[Control]:
    connections = Connections()
    yield Control(connections)
    connections.close()


@pytest.fixture
def start_faulty() -> Iterator[Callable[[], FaultyServer]]:
    started: list[FaultyServer] = []

    def start() -> FaultyServer:
        started.append(FaultyServer())
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., SGLangEngine]]:
    """An engine over servers by their addresses, at version 1; keywords are those of ClientOptions."""
    made: list[SGLangEngine] = []

    def make(*urls: str, silence_limit_s: float = 1.0, api_key: str = "", **options: object) -> SGLangEngine:
        connections = Connections(api_key=api_key)
        fleet = Fleet(connections, [Member(url=url) for url in urls], silence_limit_s=silence_limit_s)
        chosen = {"vocab_size": VOCABULARY, "backoff_s": 0.02, "request_timeout_s": 20.0} | options
        engine = SGLangEngine(
            connections=connections,
            fleet=fleet,
            client=Client(fleet, ClientOptions(**chosen), ledger=Ledger(tmp_path / "ledger.jsonl")),
            sender=VersionOnly(Control(connections, timeout_s=2.0)),
            vocab_size=VOCABULARY,
            context_length=CONTEXT,
        )
        made.append(engine)
        engine.receive_weights([], version=1)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def ask() -> Callable[..., list[RolloutRequest]]:
    """``ask(groups, size)``: requests whose prompts differ."""

    def make(num_groups: int, group_size: int) -> list[RolloutRequest]:
        return [
            RolloutRequest(
                index=10 * place,
                prompt=Prompt(id=f"p/{place}", tokens=(place + 1, 2, 3), text="", answer=""),
                seeds=tuple(range(group_size)),
            )
            for place in range(num_groups)
        ]

    return make


# ---------------------------------------------------------------- real servers


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration's model, warmed up for as long as its distributions need to have a shape."""
    model = DemoModelOptions(warmup_steps=80, warmup_batch=16)
    return make_demo_model(model, ChainSumOptions(), cache_dir=tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="session")
def truth(demo_folder: Path) -> Truth:
    return Truth(demo_folder)


@pytest.fixture(scope="session")
def prompts(demo_folder: Path) -> tuple[Prompt, ...]:
    return load_chain_sum(ChainSumOptions(train_prompts=24), demo_folder).train


@pytest.fixture(scope="session")
def real_servers(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Two that run; a test that ends one leaves another in its place."""
    servers = start_servers(demo_folder, tmp_path_factory.mktemp("logs"), 2, context_length=DEMO_CONTEXT)
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def make_real_engine(truth: Truth) -> Iterator[Callable[..., SGLangEngine]]:
    """An engine over members that has published the model's weights as version 1."""
    made: list[tuple[Connections, ServerSender]] = []

    def make(
        *members: Member,
        silence_limit_s: float = 120.0,
        colocated: bool = False,
        pause: PauseMode = "retract",
    ) -> SGLangEngine:
        connections = Connections()
        control = Control(connections)
        fleet = Fleet(connections, members, silence_limit_s=silence_limit_s)
        sender = ServerSender(
            control,
            BroadcastTransport(control, backend="gloo"),
            SenderOptions(dtype=torch.float32, device="cpu", pause=pause),
        )
        made.append((connections, sender))
        chosen = ClientOptions(vocab_size=truth.vocab_size, keeps_cache=pause == "in_place")
        engine = SGLangEngine(
            connections=connections,
            fleet=fleet,
            client=Client(fleet, chosen, ledger=Ledger()),
            sender=sender,
            vocab_size=truth.vocab_size,
            context_length=DEMO_CONTEXT,
            colocation=Colocation(control) if colocated else None,
        )
        engine.receive_weights(truth.weights(), version=1)
        return engine

    yield make
    for connections, sender in made:
        sender.close()
        connections.close()


@pytest.fixture
def router(real_servers: list[Server], tmp_path: Path) -> Iterator[str]:
    """The address of an sglang-router that has found the servers."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, metrics = one.getsockname()[1], other.getsockname()[1]
    command = [str(PYTHON), "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-port", str(metrics), "--worker-urls", *(server.url for server in real_servers)]
    with (tmp_path / "router.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    connections = Connections()
    deadline = time.monotonic() + START_LIMIT_S
    while _num_workers(Control(connections), url) < len(real_servers):
        assert time.monotonic() < deadline, "the router does not find its servers"
        time.sleep(0.5)
    yield url
    connections.close()
    process.kill()
    process.wait(10)


def _num_workers(control: Control, router: str) -> int:
    try:
        return len(control.workers(router))
    except EngineError:
        return 0
