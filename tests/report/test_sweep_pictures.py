"""What a sweep traded: the front by hand, main effects against means worked out here."""

from __future__ import annotations

import itertools
import math
import random
import re
from pathlib import Path
from statistics import fmean

import pytest

from megaent.commands.report import report
from megaent.report.metrics import render_line
from megaent.report.parallel_coordinates import parallel_coordinates
from megaent.report.svg import Mark
from megaent.report.sweep_pictures import choices, front, sweep_pictures
from megaent.report.sweep_ranks import accuracies, agreement, rank_sections
from megaent.report.sweep_record import Outcome, Point, read_sweep, write_outcome, write_sweep
from megaent.report.sweep_table import points_of, sweep_rows


def mark(label: str, x: float, y: float) -> Mark:
    return Mark(label, x, y, 0.0, 0.0)


def test_the_front_is_what_no_other_beats() -> None:
    marks = [
        mark("a", 10, 0.5),
        mark("b", 20, 0.9),
        mark("c", 20, 0.8),
        mark("d", 15, 0.4),
        mark("e", 5, 0.1),
    ]
    assert [m.label for m in front(marks, less_is_better=True)] == ["a", "b", "e"]
    assert [m.label for m in front(marks, less_is_better=False)] == ["b"]
    twins = [mark("a", 1, 1), mark("b", 1, 1)]
    assert front(twins, less_is_better=True) == twins, "equals do not beat each other"


def test_every_other_setting_is_beaten_by_one_of_the_front() -> None:
    draw = random.Random(3)
    marks = [mark(str(n), draw.randrange(6), draw.randrange(6)) for n in range(40)]
    best = front(marks, less_is_better=False)
    for one in marks:
        beaten = [m for m in best if m.x >= one.x and m.y >= one.y and (m.x, m.y) != (one.x, one.y)]
        assert bool(beaten) == (one not in best)


def accuracy(lr: int, coef: int, seed: int) -> float:
    return 0.1 * lr + 0.03 * coef + 0.01 * seed * lr


def make_sweep(folder: Path) -> Path:
    points = []
    for lr, coef, seed in itertools.product((1, 2), (0, 3), (0, 1, 2)):
        point = Point(
            words=(f"optim.lr={lr}", f"method.coef={coef}", f"seed={seed}"), folder=f"{lr}{coef}{seed}"
        )
        points.append(point)
        run = folder / point.folder
        run.mkdir(parents=True)
        line = {"accuracy/mean": accuracy(lr, coef, seed), "length/mean": 10.0 * lr, "entropy/mean": 0.5}
        (run / "metrics.jsonl").write_text(render_line(1, line))
        (run / "config.yaml").write_text("steps: 1\n")
        is_lost = (lr, coef, seed) == (2, 3, 2)
        write_outcome(
            run, Outcome(state="failed" if is_lost else "finished", exit_code=int(is_lost), seconds=1.0)
        )
    write_sweep(folder, [], points)
    return folder


def test_a_choice_is_judged_over_everything_else(tmp_path: Path) -> None:
    points = points_of(make_sweep(tmp_path), read_sweep(tmp_path))
    assert choices(points) == ["optim.lr", "method.coef"]
    rows, source = sweep_rows(points)
    _, effects = sweep_pictures(points, rows, source)
    by_seed = [fmean(accuracy(1, coef, seed) for coef in (0, 3)) for seed in range(3)]
    mean = fmean(by_seed)
    error = math.sqrt(sum((value - mean) ** 2 for value in by_seed) / 2 / 3)
    assert f"{mean:.1%} ± {4.302653 * error:.1%}" in effects.parts[0]
    assert '<th scope="row">1</th><td>6</td>' in effects.parts[0]
    assert '<th scope="row">3</th><td>5</td>' in effects.parts[1], "what failed does not count"


def test_a_sweep_without_a_finished_point_has_no_pictures(tmp_path: Path) -> None:
    write_sweep(tmp_path, [], [Point(words=("seed=0",), folder="s0")])
    points = points_of(tmp_path, read_sweep(tmp_path))
    rows, source = sweep_rows(points)
    assert sweep_pictures(points, rows, source) == []
    assert report([str(tmp_path)], str) == 0


@pytest.mark.parametrize("count", [1, 3])
def test_the_page_has_both_pictures(tmp_path: Path, count: int) -> None:
    folder = make_sweep(tmp_path)
    record = read_sweep(folder)
    write_sweep(folder, [], [point for point in record.points if int(point.folder[-1]) < count])
    assert report([str(folder)], str) == 0
    page = (folder / "report.html").read_text()
    assert "<figcaption>Accuracy and length</figcaption>" in page
    assert "<figcaption>Accuracy and entropy</figcaption>" in page
    assert "not beaten in both: 2, 4." in page
    assert "<figcaption>Every setting at once</figcaption>" in page
    assert "4 settings over lr, coef, accuracy, length, tokens, entropy, nats; fuller is" in page
    assert ("Would another seed choose the same" in page) == (count > 1)


def test_scales_of_choices_are_even_and_of_measures_true(tmp_path: Path) -> None:
    rows, _ = sweep_rows(points_of(make_sweep(tmp_path), read_sweep(tmp_path)))
    numbered = [(str(number), row) for number, row in enumerate(rows, start=3)]
    drawn = parallel_coordinates(numbered, {"optim.lr": ["1", "1", "2", "2"], "coef": ["30", "9", "10", "9"]})
    # Numbers by their size: 9, 10, 30; the text 10 would be before 9.
    ticks = re.findall(r">\u200a([^<]+)</text>", drawn)
    assert ticks[5:10] == ["1", "2", "9", "10", "30"], ticks
    means = [row.means["accuracy"].value for row in rows]
    assert ticks[10:12] == [f"{min(means):.1%}", f"{max(means):.1%}"]
    assert ticks[14:] == ["0.500"], "all equal: one value, in the middle"
    assert re.findall(r'<th scope="row">(\d+)</th>', drawn) == ["6", "5", "4", "3"], "as in the main table"
    assert parallel_coordinates(numbered[:1], {}) == ""


def test_seeds_agree_as_counted_by_hand() -> None:
    # Pairs ab, ac, bc: the seeds agree on ab and ac; on bc the second finds no difference.
    by_seed = {"seed=0": {"a": 0.9, "b": 0.5, "c": 0.1}, "seed=1": {"a": 0.8, "b": 0.3, "c": 0.3}}
    assert agreement(by_seed) == pytest.approx((1 + 1 + 0.5) / 3)
    assert agreement(by_seed | {"seed=2": {"a": 0.0, "b": 0.5, "c": 0.7}}) == pytest.approx(
        (1 + 1 + 0.5 + 0 + 0 + 0 + 0 + 0 + 0.5) / 9
    )
    assert agreement({"seed=0": {"a": 0.9}, "seed=1": {"a": 0.1}}) is None


def test_a_setting_that_lacks_a_seed_is_not_compared(tmp_path: Path) -> None:
    points = points_of(make_sweep(tmp_path), read_sweep(tmp_path))
    rows, source = sweep_rows(points)
    by_seed = accuracies(points, source)
    lost = "optim.lr=2,method.coef=3"
    assert all(len(of_seed) == 3 and lost not in of_seed for of_seed in by_seed.values())
    best, places = rank_sections(points, rows, source, ["experiment=demo", "steps=1"])
    assert "megaent train experiment=demo steps=1 optim.lr=2 method.coef=3 seed=0<" in best.parts[1]
    assert "same order in 100% of the cases" in places.parts[0]
    assert "<td>-</td><td>-</td><td>-</td>" in places.parts[1]
