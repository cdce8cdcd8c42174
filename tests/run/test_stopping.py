"""Signals to this very process: the first is remembered, the second and the limit leave at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from megaent.run.stopping import Stopping


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def same_handlers_afterwards() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize(("number", "word"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_the_first_signal_is_told_and_work_goes_on(
    capfd: pytest.CaptureFixture[str], number: int, word: str
) -> None:
    with Stopping(limit_s=90, speaks=True) as stopping:
        assert stopping.asked == 0
        send(number)
        assert stopping.asked == number
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert line.startswith(f"megaent: {word}: the step under way ends and is saved, within 90 s")


def test_only_one_process_of_a_run_tells(capfd: pytest.CaptureFixture[str]) -> None:
    with Stopping(limit_s=90, speaks=False) as stopping:
        send(signal.SIGTERM)
        assert stopping.asked
    assert capfd.readouterr().err == ""


def twice() -> None:
    with Stopping(limit_s=90, speaks=False):
        send(signal.SIGTERM)
        send(signal.SIGINT)
        pytest.fail("a second signal leaves")


def test_the_second_signal_ends_as_the_first_would_have() -> None:
    with pytest.raises(SystemExit) as end:
        twice()
    assert end.value.code == 143


def slow_step() -> None:
    with Stopping(limit_s=0.1, speaks=False):
        send(signal.SIGINT)
        time.sleep(30)


def test_the_limit_ends_a_step_that_takes_too_long() -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        slow_step()
    assert time.monotonic() - started < 20


def test_what_torchrun_passes_on_is_no_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with Stopping(limit_s=90, speaks=False) as stopping:
        send(signal.SIGINT)
        send(signal.SIGINT)
        assert stopping.asked == signal.SIGINT
