"""Checkers that are killed, stopped or orphaned: each costs one wrong grade at most, and none is left."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaent.reward.checker_pool import CheckerPool

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None,
    reason="math-verify is missing: `pip install math-verify`",
)


@pytest.fixture
def pool() -> Iterator[CheckerPool]:
    pool = CheckerPool(workers=1, timeout_s=1.0, memory_mib=2048)
    yield pool
    pool.close()


def checker_id(pool: CheckerPool) -> int:
    return pool._checkers[0]._process.pid


def test_a_checker_killed_while_idle_costs_no_grade(pool: CheckerPool) -> None:
    assert pool.check([("1/2", "0.5")]) == [(True, "", False)]
    killed = checker_id(pool)
    os.kill(killed, signal.SIGKILL)
    pool._checkers[0]._process.wait(timeout=10)
    assert pool.check([("1/2", "0.5"), ("1/2", "2")]) == [(True, "", False), (False, "", False)]
    assert checker_id(pool) != killed


def test_a_checker_killed_at_work_costs_one_grade(pool: CheckerPool) -> None:
    pool.check([("1/2", "0.5")])
    killed = checker_id(pool)
    # Asleep it cannot answer, so the signal that ends it is sure to find it at work.
    os.kill(killed, signal.SIGSTOP)
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -KILL {killed}"])
    assert pool.check([("1/2", "0.5"), ("1/2", "2/4")]) == [
        (False, "the checker was killed by signal 9", True),
        (True, "", False),
    ]
    assert killer.wait(timeout=10) == 0


def test_a_checker_that_never_answers_is_replaced() -> None:
    pool = CheckerPool(workers=1, timeout_s=0.5, memory_mib=2048)
    pool.check([("1/2", "0.5")])
    os.kill(checker_id(pool), signal.SIGSTOP)
    started = time.monotonic()
    assert pool.check([("1/2", "0.5"), ("1/2", "2/4")]) == [(False, "timed out", True), (True, "", False)]
    assert 4 * 0.5 + 2 < time.monotonic() - started < 4 * 0.5 + 2 + 20
    pool.close()


def test_the_kernel_limits_a_checkers_memory(pool: CheckerPool) -> None:
    pool.check([("1/2", "0.5")])
    limits = Path(f"/proc/{checker_id(pool)}/limits").read_text()
    [address_space] = [line for line in limits.splitlines() if line.startswith("Max address space")]
    assert address_space.split()[3:5] == [str(2048 << 20)] * 2


def test_closing_ends_every_process_and_can_be_repeated(pool: CheckerPool) -> None:
    pool.check([("1/2", "0.5")])
    process = pool._checkers[0]._process
    pool.close()
    pool.close()
    assert process.poll() is not None
    assert pool.check([("1/2", "0.5")]) == [(True, "", False)]


def test_checkers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from megaent.reward.checker_pool import CheckerPool\n"
        "pool = CheckerPool(workers=1, timeout_s=1.0, memory_mib=2048)\n"
        "pool.check([('1/2', '0.5')])\n"
        "print(pool._checkers[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert parent.returncode == -signal.SIGKILL
    orphan = Path(f"/proc/{int(parent.stdout)}/stat")
    deadline = time.monotonic() + 20
    while orphan.exists() and orphan.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline, "the checker is still running"
        time.sleep(0.05)
