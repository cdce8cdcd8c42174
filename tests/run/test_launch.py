"""The scripts for fleets, with stand-ins for Slurm and ssh that start on this machine what is asked for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import (
    DEMO,
    ROOT,
    Program,
    Running,
    committed,
    largest_difference,
    recorded_steps,
    repeatable,
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

LAUNCH = ROOT / "scripts" / "launch"
STEPS = "steps=6"

SRUN = """#!/usr/bin/env bash
# Two tasks on this machine; a signal goes to both, as Slurm sends it; the code is the largest.
while [[ $1 == --* ]]; do shift; done
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 "$@" &
    tasks+=("$!")
done
trap 'kill -TERM "${tasks[@]}"' USR1
code=0
for task in "${tasks[@]}"; do
    while :; do
        wait "$task"; ended=$?
        kill -0 "$task" 2>/dev/null || break
    done
    code=$((ended > code ? ended : code))
done
exit "$code"
"""
SCONTROL = """#!/usr/bin/env bash
[[ $1 == show ]] && echo 127.0.0.1 || echo "$@" >>"$ASKED"
"""
SSH = """#!/usr/bin/env bash
# The words after the options and the host, in a shell of their own.
while [[ $1 == -* ]]; do [[ $1 == -o ]] && shift; shift; done
echo "$1" >>"$ASKED"
shift
exec bash -c "$*"
"""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("ssh", SSH)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def environment(program: Program, stand_ins: Path) -> dict[str, str]:
    return {
        **program.environment,
        "PATH": f"{stand_ins}:{os.environ['PATH']}",
        "ASKED": str(stand_ins / "asked"),
        "MEGAENT_PYTHON": sys.executable,
        "MEGAENT_ROOT": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def whole(program: Program) -> Path:
    """Two replicas by torchrun, never interrupted."""
    run = program.folder / "launch-whole"
    program.torchrun(2, "train", *DEMO, STEPS, f"run.dir={run}").check()
    return run


def slurm(environment: dict[str, str], run: Path, *, restarts: int) -> Running:
    words = [str(LAUNCH / "slurm"), str(run), *DEMO, STEPS]
    of_slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", "SLURM_RESTART_COUNT": str(restarts)}
    return Running(words, environment | of_slurm, folder=run.parent)


def asked(environment: dict[str, str]) -> list[str]:
    path = Path(environment["ASKED"])
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_a_preempted_job_is_queued_again_and_goes_on_to_the_bit(
    program: Program, environment: dict[str, str], whole: Path
) -> None:
    run = program.folder / "launch-slurm"
    first = slurm(environment, run, restarts=0)
    first.wait_until(lambda: (run / "metrics.jsonl").exists() and recorded_steps(run) >= 2)
    first.signal_descendants(signal.SIGUSR1, said="srun")
    ended = first.finish()
    assert ended.code == 10, ended
    assert asked(environment) == ["requeue 7"]
    assert 2 <= recorded_steps(run) < 6
    assert slurm(environment, run, restarts=1).finish().check().left_behind == ()
    assert asked(environment) == []
    assert repeatable(run) == repeatable(whole)
    assert (
        largest_difference(run / "checkpoints" / "step-00000006", whole / "checkpoints" / "step-00000006")
        == 0
    )


def by_ssh(environment: dict[str, str], run: Path) -> tuple[Running, str]:
    """The command, and the port at which its hosts meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [str(LAUNCH / "ssh"), "127.0.0.1,127.0.0.2", "1", "train", *DEMO, STEPS, f"run.dir={run}"]
    return Running(words, environment | {"MEGAENT_PORT": port}, folder=run.parent), port


def test_hosts_by_ssh_that_are_asked_to_stop_save_what_they_did(
    program: Program, environment: dict[str, str]
) -> None:
    run = program.folder / "launch-ssh-stopped"
    started, port = by_ssh(environment, run)
    started.wait_until(lambda: (run / "metrics.jsonl").exists() and recorded_steps(run) >= 1)
    started.signal_leader(signal.SIGTERM)
    ended = started.finish()
    assert ended.code != 0
    assert ended.left_behind == ()
    assert "which is saved; `megaent resume" in ended.out + ended.err
    assert committed(run)[-1] == recorded_steps(run) < 6
    assert sorted(asked(environment)) == ["127.0.0.1"] * 3 + ["127.0.0.2"] * 3, "to start, stop and tidy up"
    assert list(Path("/tmp").glob(f"megaent-{port}-*.pid")) == []


def test_hosts_by_ssh_train_as_one(program: Program, environment: dict[str, str], whole: Path) -> None:
    run = program.folder / "launch-ssh"
    started, port = by_ssh(environment, run)
    done = started.finish().check()
    assert done.left_behind == ()
    assert sorted(asked(environment)) == ["127.0.0.1"] * 2 + ["127.0.0.2"] * 2, "to start and tidy up"
    assert committed(run) == committed(whole)
    assert repeatable(run) == repeatable(whole)
    assert list(Path("/tmp").glob(f"megaent-{port}-*.pid")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm"], "slurm: expected the run's directory"),
        (["slurm", "experiment=demo"], "slurm: expected the run's directory"),
        (["ssh", "one,two", "train"], "ssh: expected HOST,HOST,"),
        (["ssh", "one,two", "eight", "train", "experiment=demo"], "ssh: expected HOST,HOST,"),
    ],
)
def test_words_that_are_missing_are_told(environment: dict[str, str], words: list[str], message: str) -> None:
    command = [str(LAUNCH / words[0]), *words[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_setting_that_is_there_stays() -> None:
    told = 'source "$1" && echo "$NCCL_IB_TIMEOUT $OMP_NUM_THREADS $GLOO_SOCKET_IFNAME"'
    environment = {"PATH": os.environ["PATH"], "NCCL_IB_TIMEOUT": "18", "MEGAENT_INTERFACE": "ib0"}
    done = subprocess.run(
        ["bash", "-euc", told, "bash", str(LAUNCH / "environment")],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "18 8 ib0\n"
