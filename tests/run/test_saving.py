"""Saving and restoring without Megatron: the same steps after it, to the bit, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.tiny_loop import VOCAB, make_trainer

from megaent.actor.tiny_actor import TinyActor
from megaent.errors import CheckpointError
from megaent.run.manifest import STATE
from megaent.run.saving import RunState, Saver


def table(trainer: object) -> torch.Tensor:
    return dict(trainer.actor.named_weights())["bigram.weight"]  # type: ignore[attr-defined]


def test_a_restored_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = make_trainer()
    for step in range(1, 4):
        whole.step(step)
    Saver(whole, tmp_path, keep=2).save(3, before={"accuracy": 0.25}, seconds=1.5)
    told = [whole.step(step).metrics for step in (4, 5)]

    resumed = make_trainer()
    state = Saver(resumed, tmp_path, keep=2).restore()
    assert state is not None
    assert (state.step, state.before, state.seconds) == (3, {"accuracy": 0.25}, 1.5)
    assert resumed.actor.optimizer_steps == 6, "two minibatches a step"
    resumed.publish(state.step)
    again = [resumed.step(step).metrics for step in (4, 5)]
    assert [m["loss"] for m in again] == [m["loss"] for m in told]
    assert torch.equal(table(resumed), table(whole))


def test_a_new_run_has_nothing_to_restore(tmp_path: Path) -> None:
    assert Saver(make_trainer(), tmp_path, keep=2).restore() is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer()
    Saver(trainer, tmp_path, keep=2).save(1, before=None, seconds=0.0)
    other = make_trainer()
    other.actor.__init__(VOCAB + 1, lr=0.1)  # type: ignore[misc]
    assert isinstance(other.actor, TinyActor)
    with pytest.raises(CheckpointError, match=rf"another model: .*{VOCAB}.* this run's is .*{VOCAB + 1}"):
        Saver(other, tmp_path, keep=2).restore()


def test_a_state_of_another_version_names_what_it_lacks(tmp_path: Path) -> None:
    trainer = make_trainer()
    saver = Saver(trainer, tmp_path, keep=2)
    saver.save(1, before=None, seconds=0.0)
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    state = json.loads((checkpoint / STATE).read_bytes())
    del state["layout"], state["seconds"]
    from megaent.run.checkpoint import CheckpointStore, save_checkpoint

    save_checkpoint(
        CheckpointStore(tmp_path / "checkpoints", keep=2),
        2,
        write_model=trainer.actor.save,
        state=state,
        ranks=trainer.layout,
    )
    with pytest.raises(CheckpointError, match="lacks layout, seconds: it was written by another version"):
        RunState.read(tmp_path / "checkpoints" / "step-00000002")
