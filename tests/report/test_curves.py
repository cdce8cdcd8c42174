"""What a run shows for itself, checked against numbers worked out by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from megaent.errors import DataError
from megaent.report.curves import (
    before_after_markdown,
    before_after_table,
    draw_curves,
    smooth,
    write_summary,
)
from megaent.report.metrics import JsonLinesWriter

BEFORE = {
    "accuracy": 0.25,
    "accuracy_low": 0.2,
    "accuracy_high": 0.3,
    "mean_length": 40.0,
    "mean_entropy": 0.5,
    "pass_at_8": 0.6,
    "seconds": 3.0,
}
AFTER = BEFORE | {"accuracy": 0.5, "mean_length": 30.0, "mean_entropy": 0.55, "pass_at_8": 0.575}


def test_the_table_gives_points_for_shares_and_per_cent_for_sizes() -> None:
    assert before_after_markdown(BEFORE, AFTER).splitlines() == [
        "| | before | after | change |",
        "| --- | ---: | ---: | ---: |",
        "| accuracy | 25.0% | 50.0% | +25.0 points |",
        "| 95 % interval | 20.0% to 30.0% | 20.0% to 30.0% |  |",
        "| pass@8 | 60.0% | 57.5% | -2.5 points |",
        "| mean length, tokens | 40.0 | 30.0 | -25% |",
        "| mean entropy, nats | 0.500 | 0.550 | +10% |",
    ]


def test_the_terminal_shows_the_same_cells() -> None:
    stream = io.StringIO()
    Console(file=stream, width=100).print(before_after_table(BEFORE, AFTER))
    cells = [cell.strip() for cell in before_after_markdown(BEFORE, AFTER).replace("\n", "|").split("|")]
    assert all(cell in stream.getvalue() for cell in cells if cell.strip("- :"))


def test_the_summary_holds_both_evaluations_and_the_time(tmp_path: Path) -> None:
    path = tmp_path / "run" / "summary.json"
    write_summary(path, BEFORE, AFTER, steps=6, seconds=90.0)
    expected = {"before": BEFORE, "after": AFTER, "steps": 6, "seconds": 90.0}
    assert json.loads(path.read_text()) == expected
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("key", sorted(BEFORE.keys() - {"pass_at_8"}))
def test_a_summary_without_one_of_its_numbers_is_refused(tmp_path: Path, key: str) -> None:
    after = {name: value for name, value in AFTER.items() if name != key}
    with pytest.raises(ValueError, match=rf"after must have .* lacks {key}"):
        write_summary(tmp_path / "summary.json", BEFORE, after, steps=1, seconds=1.0)
    assert list(tmp_path.iterdir()) == []


def test_pass_at_8_is_left_out_where_there_were_fewer_responses() -> None:
    few = {name: value for name, value in AFTER.items() if name != "pass_at_8"}
    assert "pass@8" in before_after_markdown(BEFORE, AFTER)
    assert "pass@8" not in before_after_markdown(BEFORE, few)


def test_smoothing_is_the_weighted_mean_of_its_definition() -> None:
    values = [float(i * i % 7) for i in range(40)]
    keep = 1 - 1 / 2
    for i, smoothed in enumerate(smooth(values)):
        weights = [keep ** abs(i - j) for j in range(40)]
        mean = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        assert smoothed == pytest.approx(mean, rel=1e-12)


def test_a_short_run_is_not_smoothed() -> None:
    assert smooth([3.0, 1.0, 2.0]) == [3.0, 1.0, 2.0]


def test_curves_of_a_whole_run_and_of_a_single_bare_step_are_drawn(tmp_path: Path) -> None:
    from matplotlib.image import imread

    whole, bare = tmp_path / "whole.jsonl", tmp_path / "bare.jsonl"
    with JsonLinesWriter(whole) as writer:
        for step in range(1, 31):
            line = {"reward/mean": step / 30, "accuracy/mean": step / 60, "entropy/mean": 1 / step}
            writer.write(step, line | {"entropy/p90": 2 / step, "length/mean": 40 - step, "grad/norm": 1.0})
    with JsonLinesWriter(bare) as writer:
        writer.write(1, {"loss": 0.5, "entropy/mean": 1.0})
    draw_curves(whole, tmp_path / "whole.png", title="whole")
    draw_curves(bare, tmp_path / "bare.png", title="bare")
    tall, low = imread(tmp_path / "whole.png"), imread(tmp_path / "bare.png")
    assert tall.shape[0] > low.shape[0], "four panels need a second row"
    # The first series is drawn in its colour: some pixels are bluer than they are red.
    assert int((tall[..., 2] > tall[..., 0] + 0.3).sum()) > 200


def test_a_run_without_a_step_has_no_curves(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="no finished step"):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png", title="none")
