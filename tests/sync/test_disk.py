"""Weights through a folder: the servers hold them, the folder does not keep them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.weight_server import WeightServer
from torch import Tensor

from megaent.errors import EngineError
from megaent.rollout.sglang.control import Control
from megaent.sync.disk import DiskTransport
from megaent.sync.sender import SenderOptions, ServerSender

Weights = Callable[..., dict[str, Tensor]]
Start = Callable[..., WeightServer]


@pytest.fixture
def sender(control: Control, sync_folder: Path) -> ServerSender:
    options = SenderOptions(dtype=torch.float32, device="cpu", bucket_bytes=700, only_changed=True)
    return ServerSender(control, DiskTransport(control, sync_folder), options)


def test_weights_arrive_bit_for_bit_and_leave_no_file(
    sender: ServerSender, weights: Weights, start_server: Start, sync_folder: Path
) -> None:
    servers = [start_server(), start_server()]
    for version in (1, 2):
        report = sender.send(weights(version).items(), version, servers=[s.url for s in servers])
        assert report.failed == {}
        for server in servers:
            assert server.version == str(version)
            assert all(torch.equal(server.weights[name], t) for name, t in weights(version).items())
        assert list(sync_folder.iterdir()) == []
    assert "/begin_weight_update" not in servers[0].asked


def test_nothing_is_read_where_nothing_changed(
    sender: ServerSender, weights: Weights, start_server: Start
) -> None:
    server = start_server()
    sender.send(weights(1).items(), 1, servers=[server.url])
    server.asked.clear()
    report = sender.send(weights(1).items(), 2, servers=[server.url])
    assert (report.num_bytes, server.version) == (0, "2")
    assert "/update_weights_from_disk" not in server.asked


def test_what_a_dead_sender_left_is_removed_and_nothing_else(
    sender: ServerSender, weights: Weights, start_server: Start, sync_folder: Path
) -> None:
    for name in ("weights", "weights.unfinished", "mine"):
        (sync_folder / name).mkdir(parents=True)
        (sync_folder / name / "old.safetensors").touch()
    server = start_server()
    assert sender.send(weights(1).items(), 1, servers=[server.url]).failed == {}
    assert [path.name for path in sync_folder.iterdir()] == ["mine"]


def test_a_refused_folder_is_removed_as_well(
    sender: ServerSender, weights: Weights, start_server: Start, sync_folder: Path
) -> None:
    server = start_server()
    server.refusing = {"/update_weights_from_disk"}
    with pytest.raises(EngineError, match="/update_weights_from_disk is refused"):
        sender.send(weights(1).items(), 1, servers=[server.url])
    assert list(sync_folder.iterdir()) == []
    assert server.is_paused
