"""The papers' figures of a run whose tables are known, against numbers worked out here."""

from __future__ import annotations

import math
from itertools import accumulate
from pathlib import Path
from statistics import fmean

import pytest
from support.table_rows import LENGTH, entropy_of, write_tables

from megaent.report import paper_figures
from megaent.report.observatory import RunTables, read_tables
from megaent.report.tables import FOLDER, rows, write_part

STEPS = 21
EARLY, LATE = range(1, 6), range(17, 22)  # a fifth of the way from 1 to 21 is 5
TRAINED = range(LENGTH - 1)


@pytest.fixture
def run(tmp_path: Path) -> RunTables:
    write_tables(tmp_path, steps=STEPS)
    return read_tables(tmp_path)


def test_the_gradient_at_a_tokens_own_logit(run: RunTables) -> None:
    early, late = paper_figures.gradient_by_entropy(run)
    for line, steps in ((early, EARLY), (late, LATE)):
        # |A| is 1; weights are 0 and 1 in turns; log p = -(1 + position) / 4.
        tokens = sorted(
            (entropy_of(step, place, correct=correct), place % 2 * (1 - math.exp(-0.25 * (1 + place))))
            for step in steps
            for correct in (True, False)
            for place in TRAINED
        )
        bins = len(line.steps)
        assert bins == min(paper_figures.BINS, len(tokens) // 5)
        sizes = [len(tokens) // bins + (place < len(tokens) % bins) for place in range(bins)]
        ends = list(accumulate(sizes))
        for end, size, x in zip(ends, sizes, line.steps, strict=True):
            assert x == pytest.approx(fmean(entropy for entropy, _ in tokens[end - size : end]), rel=1e-6)
        mean = sum(size * y for size, y in zip(sizes, line.values, strict=True)) / len(tokens)
        assert mean == pytest.approx(fmean(y for _, y in tokens))


def test_entropy_along_is_of_tenths_of_each_response(run: RunTables) -> None:
    right, wrong = paper_figures.entropy_along(run)
    for line, correct in ((right, True), (wrong, False)):
        # Ten tokens each, the last of which is not learnt from: a token a tenth.
        assert line.steps == pytest.approx([0.05 + 0.1 * place for place in TRAINED])
        for place, value in zip(TRAINED, line.values, strict=True):
            expected = fmean(entropy_of(step, place, correct=correct) for step in LATE)
            assert value == pytest.approx(expected, rel=1e-6)


def write_lengths(folder: Path, lengths: dict[int, list[int]]) -> RunTables:
    """Responses of those lengths by step, every group with the first of them right."""
    steps = [step for step in lengths for _ in lengths[step]]
    names = ("prompt_id", "prompt", "answer", "split")
    columns = {name: [""] * len(steps) for name in names} | {
        "step": steps,
        "response": [place for step in lengths for place in range(len(lengths[step]))],
        "reward": [0.0] * len(steps),
        "correct": [False] * len(steps),
        "truncated": [False] * len(steps),
        "length": [length for step in lengths for length in lengths[step]],
    }
    write_part(folder / FOLDER / "responses", rows("responses", columns))
    count = len(lengths)
    groups = {name: [0.0] * count for name in ("reward", "entropy", "advantage_abs")} | {
        "step": list(lengths),
        "place": [0] * count,
        "prompt_id": [""] * count,
        "split": [""] * count,
        "responses": [len(each) for each in lengths.values()],
        "correct": [1] * count,
        "truncated": [0] * count,
        "length": [fmean(each) for each in lengths.values()],
        "entropy_correct": [0.0] * count,
        "entropy_incorrect": [0.0] * count,
    }
    write_part(folder / FOLDER / "groups", rows("groups", groups))
    return read_tables(folder)


def test_shares_of_lengths_and_accuracy_beside_them(tmp_path: Path) -> None:
    run = write_lengths(tmp_path, {1: [2, 4, 4, 8], 2: [6, 6], 3: [1, 2]})
    early, late = paper_figures.length_distribution(run)
    assert early.steps == late.steps == [1, 2, 4, 6, 8]
    assert early.values == [0, 0.25, 0.75, 0.75, 1]
    assert late.values == [0.5, 1, 1, 1, 1]
    [path] = paper_figures.accuracy_over_length(run)
    assert (path.steps, path.values) == ([4.5, 6.0, 1.5], [0.25, 0.5, 0.5])


def test_a_run_of_one_step_has_no_late_one(tmp_path: Path) -> None:
    run = write_lengths(tmp_path, {7: [3, 3]})
    [line] = paper_figures.length_distribution(run)
    assert (line.label, line.steps, line.values) == ("first fifth of the steps", [3], [1])
    assert paper_figures.accuracy_over_length(run) == []
    assert paper_figures.entropy_along(run) == []
    assert paper_figures.gradient_by_entropy(run) == []
