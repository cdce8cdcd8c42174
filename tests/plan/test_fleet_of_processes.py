"""The simulated fleet against processes: engines that sleep for every token, and the loop's own ``Ahead``.

Phases last as long as they are told, so a busy machine does not decide.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from threading import Condition, Thread

import pytest

from megaent.loop.ahead import Ahead
from megaent.plan.fleet import Fleet, simulate
from megaent.types import Group

pytestmark = [pytest.mark.full, pytest.mark.timeout(120)]

BASE_S, EACH_S, ROOM = 0.012, 0.002, 6
PROMPTS, GROUP, STEPS = 3, 4, 5
LIMIT_S = 60.0


class Recorded:
    """The same lengths in the same order for both; batch after batch."""

    def __init__(self) -> None:
        self._tokens = iter(drawn_tokens())

    def draw(self, random: Random) -> int:
        return next(self._tokens)


def drawn_tokens() -> list[int]:
    random = Random(7)
    return [random.choice((3, 6, 10, 14, 30)) for _ in range(2000)]


class Engines:
    """Engine processes; a group goes to the one with least to do."""

    def __init__(self, count: int) -> None:
        worker = Path(__file__).parents[1] / "support" / "sleeping_engine.py"
        command = [sys.executable, str(worker), str(BASE_S), str(EACH_S), str(ROOM)]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        self._changed = Condition()
        self._left: list[set[str]] = [set() for _ in range(count)]
        for number in range(count):
            Thread(target=self._listen, args=(number,), daemon=True).start()

    def generate(self, step: int) -> list[Group]:
        size = PROMPTS * GROUP
        tokens = drawn_tokens()[(step - 1) * size : step * size]
        names = [f"{step}-{number}" for number in range(size)]
        for first in range(0, size, GROUP):
            group = slice(first, first + GROUP)
            self._send(dict(zip(names[group], tokens[group], strict=True)))
        with self._changed:
            done = self._changed.wait_for(lambda: not self._any(names), timeout=LIMIT_S)
        assert done, f"step {step} did not end"
        return []

    def _any(self, names: list[str]) -> bool:
        return any(name in left for left in self._left for name in names)

    def _send(self, group: dict[str, int]) -> None:
        with self._changed:
            number = min(range(len(self._left)), key=lambda one: len(self._left[one]))
            self._left[number].update(group)
            stdin = self._processes[number].stdin
            assert stdin is not None
            stdin.write(json.dumps(group) + "\n")
            stdin.flush()

    def _listen(self, number: int) -> None:
        stdout = self._processes[number].stdout
        assert stdout is not None
        for line in stdout:
            with self._changed:
                self._left[number].discard(line.strip())
                self._changed.notify_all()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def started(count: int) -> Iterator[Engines]:
    engines = Engines(count)
    try:
        yield engines
    finally:
        engines.close()


def seconds_of_a_step(engines: Engines, fleet: Fleet) -> float:
    """After as many steps as a simulation leaves out."""
    unread = 2 * (fleet.staleness + 1)
    last = unread + STEPS
    ahead = Ahead(
        engines.generate, depth=max(1, fleet.staleness), last_step=last + fleet.staleness, timeout_s=LIMIT_S
    )
    begun = 0.0
    for step in range(1, last + 1):
        if step == unread + 1:
            begun = time.monotonic()
        if fleet.staleness:
            ahead.take(step)
        else:
            engines.generate(step)
        time.sleep(fleet.train_s)
        time.sleep(fleet.publish_s)
    taken = time.monotonic() - begun
    ahead.close()
    return taken / STEPS


@pytest.mark.parametrize(
    ("count", "staleness", "train_s"), [(1, 0, 0.2), (1, 1, 0.9), (2, 1, 0.1), (2, 2, 0.3), (3, 2, 0.1)]
)
def test_a_fleet_of_two_to_four_processes_takes_as_long_as_it_is_simulated(
    count: int, staleness: int, train_s: float
) -> None:
    fleet = Fleet(
        engines=count, room=ROOM, token_s=lambda responses, context: BASE_S + EACH_S * responses,
        lengths=Recorded(), prompts=PROMPTS, group=GROUP, prompt_tokens=1, train_s=train_s, publish_s=0.05,
        staleness=staleness,
    )  # fmt: skip
    simulated = simulate(fleet, steps=STEPS)
    with started(count) as engines:
        measured = seconds_of_a_step(engines, fleet)
    assert measured == pytest.approx(simulated.seconds, rel=0.10)
