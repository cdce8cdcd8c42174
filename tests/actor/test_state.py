"""Nothing that a checkpoint brings along is run: every pickle in it may only name what is on a list."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from support.tiny_hf import save_tiny

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions, set_learning_rate
from megaent.actor.parallel import Layout
from megaent.actor.state import check_pickles, load_state, save_state
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


def make(folder: Path, layout: Layout, *, lr: float) -> MegatronActor:
    """An actor after one step with gradients of zero: before its first step Adam has no moments to save."""
    actor = MegatronActor(folder, layout, ActorOptions(), AdamOptions(lr=lr))
    actor.chunks[0].zero_grad_buffer()
    actor.optimizer.step()
    return actor


def test_a_run_may_go_on_with_another_learning_rate(layout: Layout, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "hf", family="qwen2", tie=False)
    (tmp_path / "saved").mkdir()
    save_state(make(folder, layout, lr=1e-3), tmp_path / "saved")
    actor = make(folder, layout, lr=2e-4)
    load_state(actor, tmp_path / "saved")
    assert set_learning_rate(actor.optimizer, actor.adam, 0) == 2e-4
    assert {group["lr"] for group in actor.optimizer.param_groups} == {2e-4}


def test_a_checkpoint_without_its_common_state_is_refused_by_name(layout: Layout, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "hf", family="qwen2", tie=False)
    (tmp_path / "saved").mkdir()
    actor = make(folder, layout, lr=1e-3)
    save_state(actor, tmp_path / "saved")
    (tmp_path / "saved" / "common.pt").unlink()
    with pytest.raises(CheckpointError, match=r"has no common\.pt, without which megatron-core 0\.16 cannot"):
        load_state(actor, tmp_path / "saved")
