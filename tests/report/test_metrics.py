"""The record of a run: exact, ordered, on the disk, and whole after a kill at any instant."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megaent.errors import DataError, NumericsError
from megaent.report.metrics import (
    JsonLinesWriter,
    TensorBoardWriter,
    is_repeatable,
    read_metrics,
    render_line,
    replace_file,
    truncate_after,
)


def record(path: Path, *steps: int) -> None:
    with JsonLinesWriter(path) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 3, "accuracy/mean": 0.5})


def test_a_line_is_the_step_and_then_the_names_in_order(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonLinesWriter(path) as writer:
        writer.write(1, {"version": 2, "loss": 0.5, "entropy/mean": 1.0})
    assert path.read_bytes() == b'{"step": 1, "entropy/mean": 1.0, "loss": 0.5, "version": 2}\n'


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_to_the_bit(value: float) -> None:
    read = json.loads(render_line(1, {"loss": value}))["loss"]
    assert (read, math.copysign(1, read)) == (value, math.copysign(1, value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_an_error_that_names_it(tmp_path: Path, value: float) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonLinesWriter(path) as writer, pytest.raises(NumericsError, match=r"grad/norm .* at step 1"):
        writer.write(1, {"grad/norm": value, "loss": 1.0})
    assert path.read_bytes() == b"", "a refused step leaves nothing behind"


@pytest.mark.parametrize("name", ["step", "Loss", "entropy mean", "/mean", "entropy/", "a.b", ""])
def test_a_name_that_is_not_area_and_quantity_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="area/quantity"):
        render_line(1, {name: 1.0})


def test_steps_only_go_forward(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record(path, 1, 2)
    with JsonLinesWriter(path) as writer, pytest.raises(ValueError, match="above 2"):
        writer.write(2, {})


def test_truncation_keeps_the_steps_up_to_the_checkpoint_unchanged(tmp_path: Path) -> None:
    path, short = tmp_path / "metrics.jsonl", tmp_path / "short.jsonl"
    record(path, 1, 2, 3, 4)
    record(short, 1, 2)
    assert truncate_after(path, step=2) == []
    assert path.read_bytes() == short.read_bytes()
    record(path, 3, 4)
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]
    assert [entry.name for entry in tmp_path.iterdir() if "new" in entry.name] == []


def test_a_file_that_is_gone_is_told_and_made_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert truncate_after(path, step=0) == []
    assert not path.exists()
    (lost,) = truncate_after(path, step=5)
    assert f"{path} lacks steps 1 to 5; what they reported is lost" == lost
    record(path, 6)
    assert [line["step"] for line in read_metrics(path)] == [6]


def test_a_line_cut_anywhere_is_dropped_and_the_others_survive(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    record(whole, 1, 2)
    data = whole.read_bytes()
    first = data.index(b"\n") + 1
    for cut in range(first, len(data)):
        path = tmp_path / f"cut{cut}.jsonl"
        path.write_bytes(data[:cut])
        assert [line["step"] for line in read_metrics(path)] == [1]
        is_whole = cut == len(data) - 1
        assert len(truncate_after(path, step=2)) == (0 if is_whole else 1)
        assert path.read_bytes() == (data if is_whole else data[:first])
        assert not path.with_name(path.name + ".damaged").exists()


LINES = [b'{"step": %d, "loss": 0.5}' % step for step in (1, 2, 3, 4)]
ONE, TWO, THREE, FOUR = LINES
OURS = b"\n".join(LINES) + b"\n"
CHANGES = {  # what somebody made of the lines 1 to 4: the steps that are lost, and whether that is foreign
    "as_written": (LINES, "", False),
    "a_blank_last_line": ([*LINES, b""], "", False),
    "a_blank_line_between": ([ONE, b"", TWO, THREE, FOUR], "", False),
    "a_line_missing": ([ONE, THREE, FOUR], "lacks step 2;", False),
    "lines_missing": ([THREE], "lacks steps 1 to 2, step 4;", False),
    "emptied": ([], "lacks steps 1 to 4;", False),
    "a_line_doubled": ([ONE, TWO, TWO, THREE, FOUR], "", True),
    "out_of_order": ([TWO, ONE, THREE, FOUR], "", True),
    "another_value_for_a_step": ([*LINES, b'{"step": 2, "loss": 9.0}'], "", True),
    "a_line_of_text": ([ONE, b"nonsense", TWO, THREE, FOUR], "", True),
    "a_line_of_another_encoding": ([ONE, "é".encode("latin-1"), TWO, THREE, FOUR], "", True),
    "a_line_that_is_no_record": ([ONE, TWO, THREE, b"[4]"], "lacks step 4;", True),
    "a_line_without_a_number": ([ONE, TWO, THREE, b'{"step": 4, "loss": "low"}'], "lacks step 4;", True),
    "a_line_that_is_not_finite": ([ONE, TWO, THREE, b'{"step": 4, "loss": NaN}'], "lacks step 4;", True),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_somebody_changed_is_put_right_and_told(tmp_path: Path, name: str) -> None:
    lines, lost, is_foreign = CHANGES[name]
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(data := b"".join(line + b"\n" for line in lines))
    told = truncate_after(path, step=4)
    assert len(told) == bool(lost) + is_foreign
    assert lost in " ".join(told)
    kept = tmp_path / "metrics.jsonl.damaged"
    assert (kept.read_bytes() if kept.exists() else None) == (data if is_foreign else None)
    if not lost:
        assert path.read_bytes() == OURS
    record(path, 5)
    steps = [line["step"] for line in read_metrics(path)]
    assert steps == sorted(set(steps))


def test_appending_to_a_torn_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"st')
    with pytest.raises(DataError, match="truncate_after"):
        JsonLinesWriter(path)


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"loss": 1.0}', '{"step": "one"}'])
def test_damage_before_the_end_is_an_error_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError, match="line 2"):
        read_metrics(path)


def test_every_written_step_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    code = (
        "import sys, itertools; from pathlib import Path\n"
        "from megaent.report.metrics import JsonLinesWriter\n"
        "writer = JsonLinesWriter(Path(sys.argv[1]))\n"
        "for step in itertools.count(1): writer.write(step, {'loss': 0.5}); print(step, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    announced = [int(process.stdout.readline()) for _ in range(20)]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    steps = [line["step"] for line in read_metrics(path)]
    assert steps[: len(announced)] == announced
    assert steps == list(range(1, len(steps) + 1))


def test_a_failed_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    replace_file(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "new \ud800")  # a lone surrogate cannot be written
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("loss", True),
        ("entropy/mean", True),
        ("tokens/response", True),
        ("time/step_s", False),
        ("memory/peak_gib", False),
        ("tokens/trained_per_s", False),
        ("timeliness/mean", True),
    ],
)
def test_what_depends_on_the_clock_or_the_machine_is_not_repeatable(name: str, expected: bool) -> None:
    assert is_repeatable(name) is expected


def test_tensorboard_reads_back_scalars_and_histograms(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorBoardWriter(tmp_path)
    counts_B, edges_B1 = torch.tensor([0.0, 3.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0])
    for step in (1, 2):
        writer.write(step, {"loss": step / 2})
        writer.write_histogram(step, "entropy", counts_B=counts_B, edges_B1=edges_B1)
        writer.write_histogram(step, "empty", counts_B=torch.zeros(4), edges_B1=edges_B1)
    writer.close()
    # A run resumed after step 1 trains step 2 again; what was there before must not show.
    resumed = TensorBoardWriter(tmp_path, first_step=2)
    resumed.write(2, {"loss": 7.0})
    resumed.close()
    events = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0})
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 7.0)]
    (histogram,) = [event.histogram_value for event in events.Histograms("entropy")]
    # Three values near 1.5 and one near 3.
    assert (histogram.num, histogram.min, histogram.max) == (4, 1.0, 4.0)
    assert (histogram.sum, histogram.sum_squares) == (7.5, 3 * 1.5**2 + 3.0**2)
    assert histogram.bucket[-3:] == [3.0, 1.0, 0.0]
    assert events.Tags()["histograms"] == ["entropy"]


def test_bins_and_borders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    with pytest.raises(ValueError, match=r"shape \[4\]"):
        writer.write_histogram(1, "entropy", counts_B=torch.ones(3), edges_B1=torch.ones(3))
    writer.close()


def test_tensorboard_refuses_what_is_not_finite(tmp_path: Path) -> None:
    writer = TensorBoardWriter(tmp_path)
    with pytest.raises(NumericsError, match="loss"):
        writer.write(1, {"loss": math.nan})
    writer.close()


def test_a_full_disk_is_one_error_and_no_traceback_of_tensorboards_thread(tmp_path: Path) -> None:
    program = f"""
import resource, time
from pathlib import Path
import torch  # with what it imports, some of which looks for a temporary folder
from megaent.report.metrics import TensorBoardWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    writer = TensorBoardWriter(Path({str(tmp_path)!r}))
    for step in range(100):
        writer.write(step, {{"loss": 0.5}})
        time.sleep(0.01)
except OSError as error:
    print("refused:", error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "refused: File too large\n"
    assert "Traceback" not in done.stderr
