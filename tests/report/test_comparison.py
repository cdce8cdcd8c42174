"""The comparison's table and picture, and what the demonstration refuses, against values written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaent.commands.demo import ARMS, demo
from megaent.errors import ConfigError
from megaent.report.comparison import COLUMNS, comparison_markdown, draw_comparison
from megaent.report.metrics import JsonLinesWriter

KEYS = [key for _, key, _ in COLUMNS]
BEFORE = dict(zip(KEYS, [0.9, 0.1, 0.5, 3.0, 3.5, 0.5, 0.25], strict=True)) | {"easy/mean_first_entropy": 0.2}
AFTER = dict(zip(KEYS, [0.98, 0.914, 1.0, 9.06, 22.4, 0.0974, 0.07], strict=True))


def test_the_table_has_the_start_and_every_method_in_order() -> None:
    assert comparison_markdown(BEFORE, {"GRPO": AFTER, "other": BEFORE}).splitlines() == [
        "| | easy: right | hard: right | hard: pass@8 | easy: tokens | hard: tokens | entropy, nats "
        "| first token, hard |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| before | 90% | 10% | 50% | 3.0 | 3.5 | 0.500 | 0.250 |",
        "| GRPO | 98% | 91% | 100% | 9.1 | 22.4 | 0.097 | 0.070 |",
        "| other | 90% | 10% | 50% | 3.0 | 3.5 | 0.500 | 0.250 |",
    ]


def test_an_evaluation_that_lacks_a_number_is_an_error_that_names_it() -> None:
    short = {key: value for key, value in AFTER.items() if key != "hard/accuracy"}
    with pytest.raises(KeyError, match="hard/accuracy"):
        comparison_markdown(BEFORE, {"GRPO": short})


def test_the_picture_is_drawn_from_steps_that_were_evaluated(tmp_path: Path) -> None:
    names = ("accuracy", "mean_length", "mean_first_entropy")
    evaluated = {f"evaluate/{split}/{name}": 0.5 for split in ("easy", "hard") for name in names}
    with JsonLinesWriter(tmp_path / "metrics.jsonl") as lines:
        lines.write(1, {"accuracy/mean": 0.5})
        lines.write(2, evaluated)
    draw_comparison({"GRPO": tmp_path / "metrics.jsonl"}, BEFORE, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("word", ["method=ceeh", "experiment=demo", "method.coef=1"])
def test_the_demonstration_chooses_its_task_and_methods_itself(word: str) -> None:
    with pytest.raises(ConfigError, match="takes no"):
        demo([word])


def test_a_mistake_in_an_override_is_found_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration key 'stepz'"):
        demo(["stepz=3", f"run.dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_the_first_arm_is_plain_grpo() -> None:
    assert next(iter(ARMS)) == "grpo"
    assert len(ARMS) == 3
