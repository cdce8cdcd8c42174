"""Alarms ring at the step where five steps' mean crosses its limit, once, and not on a healthy run."""

from __future__ import annotations

import pytest

from megaent.report.alarms import alarms

HEALTHY = {
    "entropy/mean": 1.0,
    "mismatch/k3": 1e-5,
    "accuracy/solved_none": 0.3,
    "accuracy/solved_all": 0.3,
    "length/mean": 40.0,
    "length/truncated": 0.1,
    "sync/servers_failed": 0.0,
}


def run(name: str, values: list[float]) -> list[dict[str, float]]:
    return [{**HEALTHY, name: value, "step": step} for step, value in enumerate(values, start=1)]


def rung(records: list[dict[str, float]]) -> list[tuple[int, str]]:
    return [(alarm.step, alarm.name) for alarm in alarms(records)]


@pytest.mark.parametrize(
    ("name", "values", "step", "alarm"),
    [
        # Means of steps 6-10: 0.1; of 5-9: (1 + 0.4) / 5 = 0.28, still above a fifth of 1.
        ("entropy/mean", [1.0] * 5 + [0.1] * 6, 10, "entropy collapse"),
        # 3-7: (3 + 12) / 5 = 3, which is not above 3; 4-8: (2 + 18) / 5 = 4.
        ("entropy/mean", [1.0] * 5 + [6.0] * 4, 8, "entropy explosion"),
        ("mismatch/k3", [0.0] * 5 + [0.03] * 3, 7, "mismatch over budget"),  # 0.06 / 5 = 0.012
        ("accuracy/solved_none", [0.6] * 6, 5, "groups without signal"),  # 0.6 + 0.3
        ("length/mean", [40.0] * 5 + [160.0] * 3, 7, "length runaway"),  # (120 + 320) / 5 = 88 > 80
        ("length/truncated", [0.9] * 5, 5, "responses cut"),
        ("sync/servers_failed", [0.0] * 5 + [1.0], 6, "servers failed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_alarm_rings_where_the_mean_crosses(name: str, values: list[float], step: int, alarm: str) -> None:
    assert rung(run(name, values)) == [(step, alarm)]
    assert rung(run(name, values[: step - 1])) == []


def test_a_healthy_run_and_a_short_one_ring_nothing() -> None:
    assert rung(run("entropy/mean", [1.0] * 50)) == []
    assert rung(run("length/truncated", [1.0] * 4)) == []
    assert alarms([]) == []


def test_an_alarm_rings_again_only_after_twenty_steps_of_quiet() -> None:
    # Means of steps 8 to 32 are at most 0.4, of step 33 0.6.
    assert [step for step, _ in rung(run("length/truncated", [1.0] * 5 + [0.0] * 5 + [1.0] * 5))] == [5]
    assert [step for step, _ in rung(run("length/truncated", [1.0] * 5 + [0.0] * 25 + [1.0] * 5))] == [5, 33]


def test_a_metric_that_is_not_reported_rings_nothing() -> None:
    assert alarms([{"step": step, "loss": 0.0} for step in range(1, 20)]) == []
