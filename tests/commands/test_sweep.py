"""A sweep whose points are refused, killed and interrupted, and which goes on in its directory."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from support.runs import DEMO, Outcome, Program, contents, recorded_steps, repeatable

from megaent.commands.sweep_words import read_words
from megaent.config.composition import compose_config
from megaent.errors import ConfigError

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

STEPS = 14
# The refused choice comes first: what follows must be started all the same.
WORDS = ("-m", *DEMO, f"steps={STEPS}", "optim.minibatches=9,2", "seed=0,1")
REFUSED = [f"optim.minibatches=9,seed={seed}" for seed in (0, 1)]
POINTS = [f"optim.minibatches=2,seed={seed}" for seed in (0, 1)]


def states(folder: Path) -> dict[str, str]:
    return {
        point["name"]: json.loads((folder / point["folder"] / "outcome.json").read_text())["state"]
        for point in json.loads((folder / "sweep.json").read_text())["points"]
    }


@pytest.fixture(scope="module")
def folder(program: Program) -> Path:
    return program.folder / "swept"


@pytest.fixture(scope="module")
def disturbed(program: Program, folder: Path) -> Outcome:
    """The first run is killed, the second one is under way when the sweep gets a Ctrl-C."""
    sweep = program.start("train", *WORDS, f"sweep.dir={folder}")
    sweep.wait_until(lambda: recorded_steps(folder / POINTS[0]) >= 3)
    sweep.signal_descendants(signal.SIGKILL, said=POINTS[0])
    sweep.wait_until(lambda: recorded_steps(folder / POINTS[1]) >= 2)
    sweep.signal_group(signal.SIGINT)
    return sweep.finish()


@pytest.fixture(scope="module")
def continued(program: Program, folder: Path, disturbed: Outcome) -> Outcome:
    """The same words in the same directory."""
    return program.run("train", *WORDS, f"sweep.dir={folder}")


def test_a_killed_and_a_refused_point_end_no_other(disturbed: Outcome, folder: Path) -> None:
    assert disturbed.code == 10, disturbed
    assert disturbed.left_behind == ()
    assert recorded_steps(folder / POINTS[0]) < STEPS
    for name in REFUSED:
        line = f"refused: {name}: optim.minibatches=9 exceeds rollout.prompts_per_step=4"
        assert line in disturbed.out
    assert f"failed: {POINTS[0]}: ended by SIGKILL; the last it said: step " in disturbed.out
    assert "stopped with 4 of 4 points unfinished" in disturbed.err
    assert 2 <= recorded_steps(folder / POINTS[1]) < STEPS


def test_the_same_command_goes_on_and_ends_like_runs_alone(
    program: Program, continued: Outcome, folder: Path
) -> None:
    assert continued.code == 9, continued
    assert "4 points in " in continued.out
    assert "2 refused, 2 resumed" in continued.out
    assert "2 of 4 points failed" in continued.err
    assert states(folder) == dict.fromkeys(POINTS, "finished") | dict.fromkeys(REFUSED, "refused")
    alone = program.folder / "alone"
    program.run("train", *DEMO, f"steps={STEPS}", "seed=1", f"run.dir={alone}").check()
    assert repeatable(folder / POINTS[1]) == repeatable(alone)
    assert len(repeatable(folder / POINTS[0])) == STEPS


def test_the_table_has_both_seeds_in_one_row(continued: Outcome, folder: Path) -> None:
    # The last tenth of 14 steps are two.
    ends = [sum(line["length/mean"] for line in repeatable(folder / name)[-2:]) / 2 for name in POINTS]
    mean, half_width = sum(ends) / 2, 12.7062 * abs(ends[0] - ends[1]) / 2  # t(0.975, 1)
    rows = [line for line in (folder / "sweep.md").read_text().splitlines() if "minibatches=2" in line]
    assert len(rows) == 1
    cells = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert cells[1] == "2 of 2"
    assert cells[3] == f"{mean:.1f} ± {half_width:.1f}"
    assert cells[5] == "finished"


def test_finished_points_are_left_as_they_are(program: Program, continued: Outcome, folder: Path) -> None:
    before = [contents(folder / name) for name in POINTS]
    more = program.run("train", *WORDS, "optim.minibatches=9,2,8", f"sweep.dir={folder}")
    assert "4 of 6 points failed" in more.err, "choices may be added"
    again = program.run("train", *WORDS, f"sweep.dir={folder}")
    assert again.code == 9
    assert "2 of 4 points failed" in again.err, "those that are not asked for again do not count"
    assert "2 finished before, 2 refused" in again.out
    assert [contents(folder / name) for name in POINTS] == before
    other = program.run("train", *WORDS, "optim.lr=1e-3", f"sweep.dir={folder}")
    assert other.code == 2
    assert "holds a sweep of other settings (not in both: optim.lr=1e-3)" in other.err


def test_what_no_point_can_be_is_refused_before_anything_is_made(program: Program) -> None:
    outcome = program.run("train", "-m", *DEMO, "optim.learning=1", "seed=0,1", "sweep.dir=nowhere")
    assert outcome.code == 2
    assert "there is no configuration key 'optim.learning'" in outcome.err
    assert not (program.folder / "nowhere").exists()


def test_a_launcher_that_is_not_there_is_refused_before_anything_is_made(program: Program) -> None:
    outcome = program.run("train", "-m", *DEMO, "hydra/launcher=teleport", "seed=0,1", "sweep.dir=nowhere")
    assert outcome.code == 2
    assert "Could not find 'hydra/launcher/teleport'" in outcome.err
    assert "megaent[sweeps]" in outcome.err
    assert not (program.folder / "nowhere").exists()


def test_a_short_option_belongs_to_each_points_own_method() -> None:
    asked = read_words(["experiment=demo", "method=kl_cov,clip_cov", "method.fraction=0.5"])
    yamls = [compose_config([*asked.common, *point.words])[1] for point in asked.points]
    assert "kl_cov:" in yamls[0]
    assert "clip_cov:" in yamls[1]
    assert all("fraction: 0.5" in text for text in yamls)
    with pytest.raises(ConfigError, match="could belong to any"):
        compose_config(["experiment=demo", "method=[kl_cov,clip_cov]", "method.fraction=0.5"])
