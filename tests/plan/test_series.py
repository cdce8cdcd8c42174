"""Plans beside each other: each line is its value's plan, and its parts are those that are waited for."""

from __future__ import annotations

import json

import pytest

from megaent.cli import main
from megaent.errors import ConfigError
from megaent.plan.question import read_question
from megaent.plan.search import Search
from megaent.plan.series import limit, series, waited_for

STEP = ["model=qwen2_5_7b", "cluster=h100", "max_new_tokens=4096", "response_tokens=1500"]


def test_every_line_is_the_plan_of_its_value() -> None:
    lines = series(STEP, "nodes=1,2,4")
    for line in lines:
        best = Search(read_question([*STEP, f"nodes={line.value}"])).run().candidates[0]
        assert line.cards == 8 * int(line.value)
        assert line.seconds == best.seconds
    assert lines[0].seconds > lines[1].seconds > lines[2].seconds


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_what_is_waited_for_makes_the_step(staleness: int) -> None:
    best = Search(read_question([*STEP, "nodes=4", f"staleness={staleness}"])).run().candidates[0]
    parts = waited_for(best)
    assert sum(parts.values()) == pytest.approx(best.seconds)
    name, share = limit(best)
    assert share == pytest.approx(max(parts.values()) / best.seconds)
    assert parts[name] == max(parts.values())


def test_a_value_that_does_not_fit_keeps_its_line_and_says_what_lacks() -> None:
    lines = series(
        ["model=qwen2_5_32b", "cluster=a100_40", "max_new_tokens=4096", "response_tokens=1500"], "gpus=4,64"
    )
    assert "GiB a card" in lines[0].why_not
    assert lines[1].seconds > 0


def test_an_unknown_key_and_a_key_given_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean nodes"):
        series(STEP, "nodse=1,2")
    with pytest.raises(ConfigError, match="a key that is not given otherwise"):
        series([*STEP, "nodes=1"], "nodes=1,2")


def test_the_table_says_that_it_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *STEP, "--over", "nodes=1,2"]) == 0
    assert "nothing measured" in capsys.readouterr().out
    assert main(["plan", *STEP, "--over", "nodes=1,2", "--json"]) == 0
    assert [line["cards"] for line in json.loads(capsys.readouterr().out)] == [8, 16]
