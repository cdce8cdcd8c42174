"""Servers on the trainer's devices have their memory when they are asked for something, and not before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.weight_server import WeightServer
from torch import Tensor

from megaent.errors import EngineError
from megaent.rollout.sglang.client import Client, ClientOptions
from megaent.rollout.sglang.colocation import Colocation
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.rollout.sglang.fleet import Fleet, Member
from megaent.rollout.sglang.ledger import Ledger
from megaent.sync.broadcast import BroadcastTransport
from megaent.sync.sender import SenderOptions, ServerSender

WEIGHTS: dict[str, Tensor] = {"model.norm.weight": torch.arange(8.0)}


@pytest.fixture
def server() -> Iterator[WeightServer]:
    made = WeightServer({name: tuple(tensor.shape) for name, tensor in WEIGHTS.items()})
    yield made
    made.close()


@pytest.fixture
def engine(server: WeightServer, tmp_path: Path) -> Iterator[SGLangEngine]:
    """Over one server, at version 1."""
    connections = Connections()
    control = Control(connections, timeout_s=20.0)
    fleet = Fleet(connections, [Member(url=server.url)], silence_limit_s=5.0)
    made = SGLangEngine(
        connections=connections,
        fleet=fleet,
        client=Client(fleet, ClientOptions(vocab_size=64), ledger=Ledger(tmp_path / "ledger.jsonl")),
        sender=ServerSender(
            control,
            BroadcastTransport(control, backend="gloo"),
            SenderOptions(dtype=torch.float32, device="cpu"),
        ),
        vocab_size=64,
        context_length=64,
        colocation=Colocation(control),
    )
    made.receive_weights(WEIGHTS.items(), version=1)
    yield made
    made.close()


def test_room_for_weights_comes_before_them_and_room_for_the_cache_after(
    engine: SGLangEngine, server: WeightServer
) -> None:
    assert "/resume_memory_occupation" not in server.asked, "a server that was started has its memory"
    engine.rest()
    assert server.without == {"weights", "kv_cache"}
    server.asked.clear()
    engine.receive_weights(WEIGHTS.items(), version=2)
    assert server.without == set()
    places = [place for place, path in enumerate(server.asked) if path == "/resume_memory_occupation"]
    sent = server.asked.index("/update_weights_from_distributed")
    assert len(places) == 2
    assert places[0] < sent < server.asked.index("/weights_checker") < places[1]
    assert torch.equal(server.weights["model.norm.weight"], WEIGHTS["model.norm.weight"])


def test_a_server_that_keeps_its_memory_ends_the_step(engine: SGLangEngine, server: WeightServer) -> None:
    server.refusing.add("/release_memory_occupation")
    with pytest.raises(EngineError, match="/release_memory_occupation was answered with 400"):
        engine.rest()


def test_only_what_was_given_up_is_asked_back(engine: SGLangEngine, server: WeightServer) -> None:
    engine.receive_weights(WEIGHTS.items(), version=2)
    engine.rest()
    engine.receive_weights(WEIGHTS.items(), version=3)
    engine.receive_weights(WEIGHTS.items(), version=4)
    assert server.asked.count("/resume_memory_occupation") == 2
    assert server.version == "4"
