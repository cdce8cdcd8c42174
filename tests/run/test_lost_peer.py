"""A run over two hosts: trained, cut apart, ended by a named error in time, and continued to the bit.

Each host is a network namespace with an address of its own and a cable between them, where the kernel lets
this user make some. Everywhere, a process that stands still is the same to its peers as a node that is gone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runs import (
    DEMO,
    Program,
    Running,
    checkpoint,
    committed,
    largest_difference,
    recorded_steps,
    repeatable,
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

LIMIT_S = 20
WORDS = ("train", *DEMO, "steps=8", f"run.timeout_s={LIMIT_S}")
SAID = rf"not heard from .*run\.timeout_s={LIMIT_S}.*megaent resume"
ADDRESSES = ("10.211.7.1", "10.211.7.2")


class Hosts:
    """Two namespaces joined by a cable."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._names = tuple(f"megaent-{os.getpid()}-{number}" for number in range(2))

    def make(self) -> str:
        """What the kernel refused, "" when they are there."""
        for name in self._names:
            if refused := _ip("netns", "add", name):
                return refused
        one, other = self._names
        _ip("link", "add", "cable", "netns", one, "type", "veth", "peer", "name", "cable", "netns", other)
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "lo", "up")
        self.join()
        return ""

    def join(self) -> None:
        for name in self._names:
            _ip("-n", name, "link", "set", "cable", "up")

    def cut(self) -> None:
        _ip("-n", self._names[0], "link", "set", "cable", "down")

    def close(self) -> None:
        for name in self._names:
            _ip("netns", "del", name)

    def start(self, *words: str) -> list[Running]:
        """One process of the run on each host, joined by torchrun's c10d rendezvous."""
        return [self._start(number, *words) for number in range(2)]

    def _start(self, number: int, *words: str) -> Running:
        options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "run"]
        options += ["--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--local-addr", ADDRESSES[number]]
        options += ["--rdzv-conf", f"is_host={1 - number}", "-m", "megaent"]
        return self._program.start(
            *options,
            *words,
            program=("-m", "torch.distributed.run"),
            under=("ip", "netns", "exec", self._names[number]),
            environment={"GLOO_SOCKET_IFNAME": "cable"},
        )


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False).stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def whole(program: Program) -> Path:
    """Eight steps of two replicas on one host, never interrupted; and the cached model."""
    run = program.folder / "one-host"
    program.torchrun(2, *WORDS, f"run.dir={run}").check()
    return run


@pytest.fixture
def hosts(program: Program) -> Iterator[Hosts | str]:
    made = Hosts(program)
    refused = made.make()
    yield refused or made
    made.close()


def check_continued(run: Path, whole: Path) -> None:
    """Step for step, and to the bit at the end, what was never interrupted."""
    assert repeatable(run) == repeatable(whole)
    assert largest_difference(checkpoint(run, 8), checkpoint(whole, 8)) == 0.0


def test_a_process_that_stands_still_ends_the_run_in_time(program: Program, whole: Path) -> None:
    run = program.folder / "stands-still"
    options = ("--standalone", "--nproc-per-node", "2", "-m", "megaent")
    running = program.start(*options, *WORDS, f"run.dir={run}", program=("-m", "torch.distributed.run"))
    running.wait_until(lambda: recorded_steps(run) >= 3)
    os.kill(running.pid_of_rank(1), signal.SIGSTOP)
    outcome = running.finish()
    assert outcome.code == 1, "torchrun's own"
    [line] = [line for line in outcome.err.splitlines() if line.startswith("megaent (rank 0)")]
    assert re.search(SAID, line)
    assert "Traceback" not in outcome.err.partition("torch/distributed/elastic")[0]
    assert outcome.left_behind == ()
    assert max(committed(run)) < 8, "there is something left to do"
    program.torchrun(2, "resume", str(run)).check()
    check_continued(run, whole)


def test_two_hosts_train_as_one_are_cut_apart_and_go_on(
    program: Program, whole: Path, hosts: Hosts | str
) -> None:
    if isinstance(hosts, str):
        assert "not permitted" in hosts, f"namespaces are refused, and not for want of rights: {hosts}"
        return
    run = program.folder / "two-hosts"
    parts = hosts.start(*WORDS, f"run.dir={run}")
    parts[0].wait_until(lambda: recorded_steps(run) >= 3)
    hosts.cut()
    # torchrun on the second host waits longer for the first than the run does; it is ended.
    ended = [part.finish(limit_s=2 * LIMIT_S) for part in parts]
    for rank, outcome in enumerate(ended):
        said = [line for line in outcome.err.splitlines() if line.startswith(f"megaent (rank {rank})")]
        assert len(said) == 1, outcome.err[-3000:]
        assert re.search(SAID, said[0])
    hosts.join()
    again = hosts.start("resume", str(run))
    for part in again:
        part.finish().check()
    check_continued(run, whole)
