"""A study on disk and as a page: it goes on where it was, and says of every figure where it comes from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from megaent.commands.scale import PAGE, scale
from megaent.errors import ConfigError, DataError
from megaent.plan.question import read_question
from megaent.plan.search import Search
from megaent.scale.here import Rates
from megaent.scale.page import study_page
from megaent.scale.point import Measured
from megaent.scale.series import all_series
from megaent.scale.study import FILE, Study, read_study

SMALL = [
    "--models", "qwen2_5_7b", "--cards", "1,8", "--fleet-cards", "8", "--staleness", "0,2",
    "--split-cards", "16", "--parts", "planned,simulated",
]  # fmt: skip


def measured_study() -> Study:
    rates = Rates(
        cores=2, product_flops=5e10, product_half=3.0, attention_flops=1e10, copy_bytes_per_s=1e10,
        exchange_bytes_per_s=1e8, exchange_latency_s=1e-4,
    )  # fmt: skip
    study = Study(record={"command": "megaent scale <b>"}, rates=rates)
    for number, point in enumerate({p.name: p for s in all_series(2) for p in s.points.values()}.values()):
        verbs = {"generate": 1.0, "score": 0.4, "update": 1.2 + number / 8, "publish": 0.1, "step": 3.0}
        study.points[point.name] = Measured(seconds=verbs, tokens_per_s=700.0, peak_gib=1.0, tokens=2048.0)
        if point.ranks > 1:
            study.collectives[point.name] = {"allreduce": (3, 7_000_000 + number)}
    return study


def test_a_study_comes_back_as_it_was_written(tmp_path: Path) -> None:
    study = measured_study()
    study.write(tmp_path)
    assert read_study(tmp_path) == study


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no study of megaent scale"),
        ("[]", "is no study of megaent scale"),
        ('{"version": 1}', "is no study of megaent scale: 'record'"),
        ('{"version": 7}', "is of another version of megaent"),
        ('{"version": 1, "record": {}, "rates": {"cores": 2}, "points": {}}', "is no study of megaent scale"),
    ],
)
def test_another_file_is_refused_and_stays(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(DataError, match=re.escape(message)):
        scale(["--out", str(tmp_path), *SMALL], str)
    assert (tmp_path / FILE).read_text() == text


def test_planned_and_simulated_lines_are_those_of_the_plan(tmp_path: Path) -> None:
    said: list[str] = []
    assert scale(["--out", str(tmp_path), *SMALL], said.append) == 0
    study = read_study(tmp_path)
    best = Search(read_question(["model=qwen2_5_7b", "cluster=h100", "gpus=8", "staleness=2"])).run()
    line = next(line for line in study.fleet if line.staleness == 2)
    assert line.planned_s == best.candidates[0].seconds
    assert sum((line.parts or {}).values()) == pytest.approx(line.simulated_s)
    assert [line.cards for line in study.cards["qwen2_5_7b"]] == [1, 8]
    assert "does not fit" in study.cards["qwen2_5_7b"][0].why_not
    assert [line.engine_cards for line in study.split] == [8]
    page = (tmp_path / PAGE).read_text()
    assert f'value="{line.simulated_s!r}"' in page
    assert "measured here" not in page

    written = (tmp_path / FILE).read_bytes()
    again: list[str] = []
    assert scale(["--out", str(tmp_path), *SMALL], again.append) == 0
    assert [line for line in again if "planning" in line or "simulating" in line] == []
    assert (tmp_path / FILE).read_bytes() == written
    with pytest.raises(ConfigError, match="holds a study of other words"):
        scale(["--out", str(tmp_path), *SMALL, "--failures", "0"], str)


def test_a_page_shows_what_was_measured_beside_what_was_planned() -> None:
    study = measured_study()
    page = study_page(study, all_series(2))
    for series in all_series(2):
        assert f"{series.title}, measured here" in page
        for point in series.points.values():
            assert f'value="{study.points[point.name].seconds["update"]!r}"' in page
            for _, num_bytes in study.collectives.get(point.name, {}).values():
                assert f"{num_bytes:,}" in page
    assert "megaent scale &lt;b&gt;" in page
    assert "simulated" not in re.sub(r"<header>.*?</header>", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "measured,drawn"], "--parts takes measured, planned, simulated, got 'drawn'"),
        (["--series", "tq"], "no series 'tq'"),
        (
            ["--cards", "8,x", "--parts", "planned"],
            "--cards takes whole numbers separated by commas, got '8,x'",
        ),
        (["--staleness", "", "--parts", "simulated"], "--staleness takes whole numbers"),
        (["--device", "cuda"], "--device cuda needs a card"),
    ],
)
def test_words_that_make_no_sense_are_refused(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        scale(["--out", str(tmp_path / "study"), *words], str)
    assert not (tmp_path / "study").exists()


def test_the_record_says_where_it_was_made(tmp_path: Path) -> None:
    words = ["--out", str(tmp_path), "--parts", "planned", "--models", "qwen2_5_7b", "--cards", "8"]
    assert scale(words, str) == 0
    record = json.loads((tmp_path / FILE).read_text())["record"]
    assert record["command"] == " ".join(["megaent", "scale", *words])
    assert {"machine", "versions", "commit", "date"} <= record.keys()
