"""Whole runs with real servers: killed, resumed, and with two leaders that share the servers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from support.documents import metrics_of_servers
from support.real_server import ROOT, START_LIMIT_S
from support.runs import DEMO, Program, recorded_steps

from megaent.report.metrics import read_metrics
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.server import Server

pytestmark = [pytest.mark.full, pytest.mark.timeout(3 * START_LIMIT_S)]


@pytest.fixture
def given(real_servers: list[Server]) -> str:
    return f"rollout.urls=[{','.join(server.url for server in real_servers)}]"


def read_ledger(run: Path, leader: int) -> list[dict]:
    lines = (run / "rollouts" / f"ledger-{leader}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_a_killed_trainer_leaves_no_server_behind(program: Program, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*DEMO, "rollout=sglang", "steps=1000", f"run.dir={run}"]
    running = program.start("train", *words)
    running.wait_until(lambda: recorded_steps(run) >= 1, limit_s=START_LIMIT_S)
    assert any("sglang" in command for command in running.descendants())
    running.signal_leader(signal.SIGKILL)
    outcome = running.finish()
    assert outcome.code == -signal.SIGKILL
    assert outcome.left_behind == ()


def test_a_killed_trainer_is_resumed_against_the_same_servers(
    program: Program, tmp_path: Path, given: str, real_servers: list[Server], control: Control
) -> None:
    run = tmp_path / "run"
    words = [*DEMO, "rollout=sglang", given, "checkpoint.every=1", f"run.dir={run}"]
    running = program.start("train", *words)
    running.wait_until(lambda: recorded_steps(run) >= 2, limit_s=START_LIMIT_S)
    running.signal_group(signal.SIGKILL)
    running.finish()
    assert all(server.is_alive for server in real_servers)

    program.start("resume", str(run)).finish(limit_s=START_LIMIT_S).check()
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert max(line["mismatch/max_abs"] for line in lines) < 1e-4
    assert all(metrics_of_servers(ROOT / "docs" / "metrics.md") <= line.keys() for line in lines)
    assert max(line["sync/log_prob_difference"] for line in lines) < 1e-4
    assert {control.model_info(server.url).weight_version for server in real_servers} == {"6"}
    calls = read_ledger(run, 0)
    assert all(call["asked"] == call["answered"] == 16 for call in calls)
    assert [call["version"] for call in calls][-1] == 5


def test_two_leaders_share_the_servers(
    program: Program, tmp_path: Path, given: str, real_servers: list[Server]
) -> None:
    """One of them sends the weights, the other waits until they are there."""
    run = tmp_path / "run"
    words = [*DEMO, "rollout=sglang", given, "steps=3", f"run.dir={run}"]
    program.torchrun(2, "train", *words).check()
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert max(line["mismatch/max_abs"] for line in lines) < 1e-4
    for leader in (0, 1):
        calls = read_ledger(run, leader)
        assert [call["version"] for call in calls] == [0, 1, 2]
        assert all(call["asked"] == call["answered"] == 8 for call in calls)
    assert all(server.is_alive for server in real_servers)


def test_a_run_through_a_router(program: Program, tmp_path: Path, router: str, control: Control) -> None:
    run = tmp_path / "run"
    words = [*DEMO, "rollout=sglang", f"rollout.router={router}", "steps=3", f"run.dir={run}"]
    program.run("train", *words).check()
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert max(line["mismatch/max_abs"] for line in lines) < 1e-4
    assert {control.model_info(url).weight_version for url in control.workers(router)} == {"3"}
    assert all(call["asked"] == call["answered"] == 16 for call in read_ledger(run, 0))


@pytest.mark.parametrize("pause", ["retract", "abort", "in_place"])
def test_responses_several_versions_old_are_learnt_from(
    pause: str, program: Program, tmp_path: Path, given: str
) -> None:
    """With a staleness of 2 weights come while responses are drawn; none is older than that."""
    run = tmp_path / "run"
    words = [*DEMO, "rollout=sglang", given, "rollout.staleness=2", f"rollout.sync.pause={pause}"]
    words += ["method=[grpo,tis]", f"run.dir={run}"]
    program.run("train", *words).check()
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 7))
    stale = [line["staleness/max"] for line in lines]
    assert stale[0] == 0
    assert 0 < max(stale) <= 2
    assert {call["version"] for call in read_ledger(run, 0)} <= set(range(6))
