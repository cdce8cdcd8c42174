"""What one pair of Python and megatron-core saved, the other loads: to the bit, and in mid-run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import (
    DEMO,
    ROOT,
    Program,
    checkpoint,
    committed,
    repeatable,
    saved_optimizer,
    saved_tensors,
)
from support.same_run import check_same_checkpoint, check_same_step

from megaent.run.checkpoint import digest

OTHER = ROOT / (".venv" if Path(sys.prefix).name == ".venv-other" else ".venv-other") / "bin" / "python"

pytestmark = [
    pytest.mark.full,
    pytest.mark.pair,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not OTHER.exists(), reason=f"{OTHER} is not there; run `./scripts/setup && ./scripts/setup --other`"
    ),
]

DIRECTIONS = ("here to there", "there to here")
FOUR_STEPS = (*DEMO, "steps=4")


@pytest.fixture(scope="module")
def there(program: Program) -> Program:
    """The other pair, with the same warm models."""
    return Program(program.folder, python=str(OTHER))


@pytest.fixture(scope="module")
def uninterrupted(program: Program) -> Path:
    run = program.folder / "uninterrupted"
    program.run("train", *FOUR_STEPS, f"run.dir={run}").check()
    return run


@pytest.fixture(scope="module")
def killed(program: Program, there: Program, uninterrupted: Path) -> dict[str, Path]:
    """Runs killed amid their second checkpoint, by the pair that began each."""
    runs = {}
    for direction, first in zip(DIRECTIONS, (program, there), strict=True):
        run = runs[direction] = program.folder / direction.replace(" ", "-")
        moment = r"open 1 step-00000004\.partial/manifest\.json -> w"
        first.run_dying_at(moment, "train", *FOUR_STEPS, f"run.dir={run}")
    return runs


def test_the_two_pairs_are_two() -> None:
    asked = ("-c", "import importlib.metadata as m; print(m.version('megatron-core')[:4])")
    said = [subprocess.check_output([python, *asked], text=True) for python in (sys.executable, str(OTHER))]
    assert {version.strip() for version in said} == {"0.16", "0.19"}


def warm_model(program: Program) -> Path:
    """Any weights of the right sizes: the checkpoint's replace them."""
    return next(Path(program.environment["MEGAENT_CACHE"]).rglob("*.safetensors")).parent


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_checkpoint_saved_again_by_the_other_version_is_the_same_to_the_bit(
    program: Program, killed: dict[str, Path], tmp_path: Path, direction: str, tp: int
) -> None:
    second = str(OTHER) if direction == DIRECTIONS[0] else sys.executable
    source, target = checkpoint(killed[direction], 2), tmp_path
    (target / "model").mkdir()
    command = [second, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(tp)]
    command += [str(ROOT / "tests" / "support" / "state_worker.py"), str(warm_model(program))]
    command += [str(source / "model"), str(target / "model"), str(tp)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert digest(target, rank=0, world_size=1).keys() >= {"model/common.pt", "model/.metadata"}
    ours, theirs = saved_tensors(target), saved_tensors(source)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(tensor) for name, tensor in theirs.items())
    assert saved_optimizer(target) == saved_optimizer(source)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_run_killed_under_one_version_goes_on_under_the_other(
    program: Program, there: Program, killed: dict[str, Path], uninterrupted: Path, direction: str
) -> None:
    run, second = killed[direction], there if direction == DIRECTIONS[0] else program
    assert committed(run) == [2]
    second.run("resume", str(run)).check()
    found, expected = repeatable(run), repeatable(uninterrupted)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    for line, wanted in zip(found, expected, strict=True):
        check_same_step(line, wanted)
    assert committed(run) == [2, 4]
    check_same_checkpoint(run, uninterrupted, 4)
