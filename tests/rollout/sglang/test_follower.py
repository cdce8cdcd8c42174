"""A leader that shares its servers waits for the one that sends the weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from support.faulty_server import FaultyServer

from megaent.errors import EngineError
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.follower import Follower

Start = Callable[[], FaultyServer]


@pytest.fixture
def control() -> Iterator[Control]:
    connections = Connections()
    yield Control(connections, timeout_s=5.0)
    connections.close()


def test_it_returns_when_the_servers_hold_the_version(start_faulty: Start, control: Control) -> None:
    server = start_faulty()
    read: list[str] = []
    stream = ((name, torch.zeros(1)) for name in ("a", "b") if not read.append(name))
    timer = threading.Timer(0.5, lambda: server.state(version="3"))
    timer.start()
    assert not Follower(control, timeout_s=20.0).send(stream, 3, servers=[server.url]).failed
    timer.join()
    assert read == ["a", "b"]
    assert control.model_info(server.url).weight_version == "3"


def test_servers_that_never_hold_it_are_named(start_faulty: Start, control: Control) -> None:
    holds, holds_not = start_faulty(), start_faulty()
    holds.state(version="3")
    follower = Follower(control, timeout_s=0.5)
    failed = follower.send([], 3, servers=[holds.url, holds_not.url]).failed
    assert list(failed) == [holds_not.url]
    assert "'default'" in failed[holds_not.url]
    with pytest.raises(EngineError, match="no server has the weights of version 3"):
        follower.send([], 3, servers=[holds_not.url])
