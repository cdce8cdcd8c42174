"""The trainer's end of a group: heard on loopback alone, and not waiting for ever."""

from __future__ import annotations

import psutil
import pytest
import torch

from megaent.errors import EngineError
from megaent.sync.group import SendGroup


def listening() -> set[tuple[str, int]]:
    found = psutil.Process().net_connections("inet")
    return {tuple(item.laddr) for item in found if item.status == psutil.CONN_LISTEN}


def test_it_listens_on_loopback_alone() -> None:
    before = listening()
    group = SendGroup(world_size=2, backend="gloo", address="127.0.0.1", timeout_s=1.0)
    opened = listening() - before
    assert opened == {("127.0.0.1", group.port)}


def test_two_groups_never_share_a_name() -> None:
    names = {
        SendGroup(world_size=2, backend="gloo", address="127.0.0.1", timeout_s=1.0).name for _ in range(2)
    }
    assert len(names) == 2


def test_servers_that_do_not_join_are_waited_for_within_the_limit() -> None:
    group = SendGroup(world_size=2, backend="gloo", address="127.0.0.1", timeout_s=0.5)
    with pytest.raises(RuntimeError):
        group.join()


def test_nccl_does_not_send_what_lies_on_a_cpu() -> None:
    group = SendGroup(world_size=2, backend="nccl", address="127.0.0.1", timeout_s=1.0)
    with pytest.raises(EngineError, match="nccl cannot send weights that lie on cpu"):
        group.broadcast(torch.zeros(4, dtype=torch.uint8))
