"""Nothing that a checkpoint brings along is run: every pickle in it may only name what is on a list."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from megaent.actor.state import check_pickles
from megaent.errors import CheckpointError

pytestmark = [pytest.mark.full, pytest.mark.both, pytest.mark.filterwarnings("ignore")]


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_tensors_and_plain_bytes_pass(tmp_path: Path) -> None:
    dcp.save(
        {"weight": torch.ones(2), "extra": torch.zeros(1, dtype=torch.uint8)}, checkpoint_id=tmp_path / "ck"
    )
    check_pickles(tmp_path / "ck")


def test_an_object_stored_among_the_tensors_is_refused_and_not_made(tmp_path: Path) -> None:
    dcp.save({"weight": torch.ones(2), "extra": Hostile(tmp_path / "made")}, checkpoint_id=tmp_path / "ck")
    with pytest.raises(CheckpointError, match=r"names .*\.mkdir, which checkpoints of this program never do"):
        check_pickles(tmp_path / "ck")
    assert not (tmp_path / "made").exists()


def test_an_object_in_the_common_state_is_refused_and_not_made(tmp_path: Path) -> None:
    torch.save({"step": Hostile(tmp_path / "made")}, tmp_path / "common.pt")
    with pytest.raises(CheckpointError, match=r"common\.pt names"):
        check_pickles(tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_damaged_common_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "common.pt").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"common\.pt is damaged"):
        check_pickles(tmp_path)
