"""The demonstration as a newcomer starts it, only shorter."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from support.runs import Program, recorded_steps, repeatable

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

SHORT = (
    "steps=4",
    "model.warmup_steps=40",
    "evaluate.every=2",
    "evaluate.prompts=8",
    "evaluate.group_size=8",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
)


@pytest.fixture(scope="module")
def shown(program: Program) -> Path:
    run = program.folder / "demo"
    outcome = program.start("demo", *SHORT, f"run.dir={run}").finish(limit_s=400)
    outcome.check()
    assert outcome.left_behind == ()
    return run


def test_one_summary_holds_plain_grpo_and_the_other_methods(shown: Path) -> None:
    summary = json.loads((shown / "summary.json").read_text())
    assert summary.keys() >= {"before", "after", "seconds", "compare"}
    assert summary["compare"].keys() == {"linear_length", "ceeh"}
    for name, entry in summary["compare"].items():
        of_run = json.loads((shown / entry["run"] / "summary.json").read_text())
        assert entry["after"] == of_run["after"]
        assert of_run["before"] | {"seconds": 0} == summary["before"] | {"seconds": 0}, "one warm-up for all"
        assert name in (shown / entry["run"] / "config.yaml").read_text()
    assert "naive penalty" in (shown / "comparison.md").read_text()
    assert (shown / "comparison.png").stat().st_size > 10_000


def test_plain_grpo_is_an_ordinary_run_in_the_directory_itself(program: Program, shown: Path) -> None:
    assert len(repeatable(shown)) == 4
    alone = program.folder / "demo-alone"
    words = ("experiment=two_strategies", "evaluate.prompts=8", *SHORT)
    program.run("train", *words, "run.threads=1", f"run.dir={alone}").check()
    assert repeatable(alone) == repeatable(shown)


def test_an_interrupt_ends_every_run(program: Program) -> None:
    run = program.folder / "demo-interrupted"
    demo = program.start("demo", *SHORT, "steps=400", f"run.dir={run}")
    demo.wait_until(lambda: recorded_steps(run) >= 1)
    demo.signal_leader(signal.SIGINT)
    outcome = demo.finish()
    assert outcome.code == 130
    assert outcome.left_behind == ()
