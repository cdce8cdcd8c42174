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

IDENTITY = {"model": "tiny", "method": "Method(high=0.2)", "seed": "0"}


def table(trainer: object) -> torch.Tensor:
    return dict(trainer.actor.named_weights())["bigram.weight"]  # type: ignore[attr-defined]


def test_a_restored_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = make_trainer()
    for step in range(1, 4):
        whole.step(step)
    Saver(whole, tmp_path, keep=2, identity=IDENTITY).save(3, before={"accuracy": 0.25}, seconds=1.5)
    told = [whole.step(step).metrics for step in (4, 5)]

    resumed = make_trainer()
    state = Saver(resumed, tmp_path, keep=2, identity=IDENTITY).restore()
    assert state is not None
    assert (state.step, state.before, state.seconds) == (3, {"accuracy": 0.25}, 1.5)
    assert resumed.actor.optimizer_steps == 6, "two minibatches a step"
    resumed.publish(state.step)
    again = [resumed.step(step).metrics for step in (4, 5)]
    assert [m["loss"] for m in again] == [m["loss"] for m in told]
    assert torch.equal(table(resumed), table(whole))


def test_a_new_run_has_nothing_to_restore(tmp_path: Path) -> None:
    assert Saver(make_trainer(), tmp_path, keep=2, identity=IDENTITY).restore() is None


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer()
    Saver(trainer, tmp_path, keep=2, identity=IDENTITY).save(1, before=None, seconds=0.0)
    other = make_trainer()
    other.actor.__init__(VOCAB + 1, lr=0.1)  # type: ignore[misc]
    assert isinstance(other.actor, TinyActor)
    with pytest.raises(CheckpointError, match=rf"another model: .*{VOCAB}.* this run's is .*{VOCAB + 1}"):
        Saver(other, tmp_path, keep=2, identity=IDENTITY).restore()


def test_a_state_of_another_version_names_what_it_lacks(tmp_path: Path) -> None:
    trainer = make_trainer()
    saver = Saver(trainer, tmp_path, keep=2, identity=IDENTITY)
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


# ---------------------------------------------------------------- whose checkpoint it is


@pytest.mark.parametrize("name", IDENTITY)
def test_the_checkpoint_of_another_run_is_refused_by_what_differs(tmp_path: Path, name: str) -> None:
    Saver(make_trainer(), tmp_path, keep=2, identity=IDENTITY).save(1, before=None, seconds=0.0)
    other = make_trainer()
    untouched = table(other).clone()
    changed = IDENTITY | {name: "another"}
    with pytest.raises(CheckpointError, match=rf"another run: its {name} was .*, here it is another"):
        Saver(other, tmp_path, keep=2, identity=changed).restore()
    assert torch.equal(table(other), untouched)
    on_purpose = Saver(make_trainer(), tmp_path, keep=2, identity=changed, changed=(name,))
    assert on_purpose.restore() is not None


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("per_step", [2, 4, 16])
def test_steps_of_another_size_go_on_at_the_next_question(
    tmp_path: Path, per_step: int, staleness: int
) -> None:
    """32 questions, of which two steps of 8 asked 16; what was drawn ahead is asked in the new size."""
    begun = make_trainer(staleness=staleness)
    asked = [group.prompt.id for step in (1, 2) for group in begun.step(step).groups]
    Saver(begun, tmp_path, keep=2, identity=IDENTITY).save(2, before=None, seconds=0.0)
    begun.collector.close()

    resumed = make_trainer(staleness=staleness, per_step=per_step)
    saver = Saver(resumed, tmp_path, keep=2, identity=IDENTITY)
    assert saver.restore() is not None
    resumed.publish(2)
    steps = range(3, 3 + 16 // per_step)
    later = [[group.prompt.id for group in resumed.step(step).groups] for step in steps]
    saver.save(steps[-1], before=None, seconds=0.0)
    resumed.collector.close()
    assert all(len(step) == per_step for step in later)
    assert sorted(asked + [name for step in later for name in step]) == sorted(
        prompt.id for prompt in begun.collector.task.train
    )
    (stage,) = RunState.read(tmp_path / "checkpoints" / f"step-{steps[-1]:08d}").prompts.values()
    assert stage == {"asked": 32, "sizes": [[0, 8], [16, per_step]]}
