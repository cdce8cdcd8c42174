"""What ``resume`` does with checkpoints that are not what was written: passed over by name, or refused."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
from support.runs import (
    Program,
    checkpoint,
    committed,
    contents,
    largest_difference,
    repeatable,
    saved_optimizer,
)

from megaent.run.checkpoint import digest, read_state
from megaent.run.manifest import MANIFEST, render_manifest

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def test_damaged_checkpoints_are_named_passed_over_and_made_again(
    program: Program, reference: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    cut = checkpoint(run, 6) / "model" / "__0_0.distcp"
    *_, flipped = sorted((checkpoint(run, 4) / "model").glob("*.distcp"))
    cut_short(cut)
    flip_a_bit(flipped)
    outcome = program.run("resume", str(run)).check()
    named = outcome.err.splitlines()
    assert len(named) == 2, outcome.err
    assert all(line.startswith("megaent: a damaged checkpoint is passed over: ") for line in named)
    assert f"{cut} has {cut.stat().st_size // 2} bytes" in named[0]
    assert f"{flipped} has sha256" in named[1]
    assert repeatable(run) == repeatable(reference)
    assert (run / "responses.md").read_bytes() == (reference / "responses.md").read_bytes()
    # The damaged ones were replaced by what the second training of their steps gave.
    assert committed(run) == [2, 4, 6]
    for step in (4, 6):
        assert largest_difference(checkpoint(run, step), checkpoint(reference, step)) == 0.0
        assert saved_optimizer(checkpoint(run, step)) == saved_optimizer(checkpoint(reference, step))


def test_when_all_are_damaged_nothing_is_deleted(program: Program, reference: Path, tmp_path: Path) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    damaged = [
        checkpoint(run, step) / name for step, name in ((2, "state.json"), (4, MANIFEST), (6, MANIFEST))
    ]
    flip_a_bit(damaged[0])
    cut_short(damaged[1])
    damaged[2].unlink()
    before = contents(run)
    outcome = program.run("resume", str(run))
    assert outcome.code == 5, outcome
    assert outcome.err.startswith("megaent: every checkpoint is damaged; restore one from a copy, or start")
    assert all(str(file) in outcome.err for file in damaged)
    assert "Traceback" not in outcome.err
    after = contents(run)
    for listing in (before, after):
        listing.pop("log.txt")
    assert after == before


class Evil:
    """Unpickling it runs a command."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.witness}",)


def test_a_checkpoint_that_names_a_function_is_refused_unread(
    program: Program, reference: Path, tmp_path: Path
) -> None:
    run, witness = shutil.copytree(reference, tmp_path / "run"), tmp_path / "executed"
    folder = checkpoint(run, 6)
    (folder / "model" / ".metadata").write_bytes(pickle.dumps(Evil(witness)))
    reseal(folder)
    outcome = program.run("resume", str(run))
    assert outcome.code == 5, outcome
    assert f"{folder / 'model' / '.metadata'} names posix.system" in outcome.err
    assert "it was not loaded" in outcome.err
    assert "Traceback" not in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not witness.exists()
    # The pickle itself is able: what kept it from running is the refusal.
    pickle.loads((folder / "model" / ".metadata").read_bytes())
    assert witness.exists()


def reseal(folder: Path) -> None:
    """Give a changed checkpoint a manifest that fits: checksums protect from accidents, not from people."""
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_bytes(
        render_manifest(int(folder.name[5:]), digest(folder, rank=0, world_size=1))
    )
    assert read_state(folder)["step"] == 6
