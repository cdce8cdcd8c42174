"""What a person sees: plain lines in a pipe, a table in a terminal, nothing from other ranks."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from megaent.report.progress import Progress, format_seconds

METRICS = {"reward/mean": 0.25, "accuracy/mean": 0.5, "entropy/mean": 1.25, "length/mean": 30.0}


class Clock:
    """Advances two seconds each time a step ends."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def show(*, terminal: bool, first_step: int = 0) -> str:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=terminal, width=100, highlight=False)
    with Progress(10, first_step=first_step, console=console, clock=clock) as progress:
        for step in (first_step + 1, first_step + 2):
            clock.now += 2.0
            progress.update(step, METRICS)
    return stream.getvalue()


def test_a_pipe_gets_one_plain_line_a_step() -> None:
    assert show(terminal=False).splitlines() == [
        "step 1/10  reward 0.250  accuracy 50.0%  entropy 1.250  length 30.0  2.00 s/step  left 18s",
        "step 2/10  reward 0.250  accuracy 50.0%  entropy 1.250  length 30.0  2.00 s/step  left 16s",
    ]


def test_time_left_counts_only_the_steps_of_this_process() -> None:
    assert "2.00 s/step  left 4s" in show(terminal=False, first_step=6)


def test_a_terminal_gets_a_table_that_stays() -> None:
    shown = show(terminal=True)
    for word in ("accuracy", "s/step", "1/10", "2/10", "1.250", "50.0%"):
        assert word in shown


def test_a_missing_metric_shows_as_a_dash() -> None:
    stream = io.StringIO()
    with Progress(1, console=Console(file=stream, width=200)) as progress:
        progress.update(1, {"entropy/mean": 1.0})
    assert "reward -  accuracy -  entropy 1.000  length -" in stream.getvalue()


def test_other_ranks_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2, rank=1) as progress:
        progress.say("hello")
        progress.update(1, METRICS)
    assert capsys.readouterr() == ("", "")


def test_what_is_said_is_never_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(2) as progress:
        progress.say("a response: [bold]3[/bold] [/]")
    assert capsys.readouterr().out == "a response: [bold]3[/bold] [/]\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (3599.7, "1h00m"), (3725, "1h02m")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
