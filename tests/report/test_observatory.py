"""The observatory's numbers are those that the tables imply, worked out here by hand."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from support.table_rows import LENGTH, TEXTS, covariance_of, entropy_of, write_tables

from megaent.report import observatory
from megaent.report.entropy_fit import Fit, fit_entropy
from megaent.report.fit_section import worth
from megaent.report.observatory import RunTables, read_tables

STEPS = 20
TRAINED = range(LENGTH - 1)


@pytest.fixture
def run(tmp_path: Path) -> RunTables:
    write_tables(tmp_path, steps=STEPS, segments=True)
    return read_tables(tmp_path)


def test_the_histogram_is_of_shares(run: RunTables) -> None:
    cells = observatory.histogram(run)
    assert [(cell.left, cell.low, cell.high) for cell in cells[:2]] == [(1, 0.0, 0.5), (1, 0.5, 1.0)]
    for cell in cells:
        counts = {0.0: cell.left, 0.5: 10.0}
        assert cell.share == pytest.approx(counts[cell.low] / sum(counts.values()))


def test_windows_hold_every_step_once() -> None:
    for count in (1, 2, 47, 48, 49, 1000):
        steps = np.arange(3, 3 + count)
        spans = observatory.windows(steps)
        assert len(spans) <= observatory.MOST_COLUMNS
        assert [sum(low <= step < high for low, high in spans) for step in steps] == [1] * count


def test_by_correctness_leaves_out_what_is_null(run: RunTables) -> None:
    right, wrong = observatory.by_correctness(run)
    assert right.steps == list(range(1, STEPS + 1))
    assert wrong.steps == list(range(2, STEPS + 1))
    for line, correct in ((right, True), (wrong, False)):
        for step, value in zip(line.steps, line.values, strict=True):
            assert value == pytest.approx(fmean(entropy_of(int(step), p, correct=correct) for p in TRAINED))


def test_by_difficulty_sorts_groups_by_what_was_right(run: RunTables) -> None:
    lines = {line.label: line.steps for line in observatory.by_difficulty(run)}
    assert lines == {
        "none right": [3, 6, 9, 12, 15, 18],
        "some right": [1, 4, 7, 10, 13, 16, 19],
        "all right": [2, 5, 8, 11, 14, 17, 20],
    }


def test_by_position_compares_first_and_last_steps(run: RunTables) -> None:
    first, last = observatory.by_position(run)
    assert first.steps == last.steps == list(TRAINED)
    for line, steps in ((first, range(1, 5)), (last, range(17, 21))):
        for position, value in zip(line.steps, line.values, strict=True):
            truth = fmean(entropy_of(s, int(position), correct=c) for s in steps for c in (True, False))
            assert value == pytest.approx(truth, rel=1e-5)


def test_the_tail_is_the_highest_share(run: RunTables) -> None:
    tail, mean = observatory.covariance_tail(run)
    assert tail.steps == list(range(1, STEPS + 1))
    assert tail.values == [100.0 * step for step in range(1, STEPS + 1)], "one of 18 tokens"
    for step, value in zip(mean.steps, mean.values, strict=True):
        assert value == pytest.approx(fmean(covariance_of(int(step), p) for p in TRAINED))


def test_tokens_are_ranked_by_mean_entropy(run: RunTables) -> None:
    highest, lowest = observatory.ranked_tokens(run, 2)
    places = {text: [p for p in TRAINED if TEXTS[p % 5] == text] for text in TEXTS}
    late = range(17, 21)
    truth = {
        text: fmean(entropy_of(s, p, correct=c) for s in late for p in where for c in (True, False))
        for text, where in places.items()
    }
    order = sorted(truth, key=lambda text: -truth[text])
    assert [mean.text for mean in highest] == order[:2]
    assert [mean.text for mean in lowest] == order[::-1][:2]
    assert [mean.entropy for mean in highest] == pytest.approx([truth[text] for text in order[:2]], rel=1e-5)
    assert {mean.count for mean in highest + lowest} <= {8, 16}


def test_fifths_are_equal_parts_by_entropy(run: RunTables) -> None:
    tokens = sorted(
        (entropy_of(s, p, correct=c), p) for s in range(17, 21) for p in TRAINED for c in (True, False)
    )
    parts = np.array_split(np.array([entropy for entropy, _ in tokens]), 5)
    found = observatory.fifths(run)
    assert [each.entropy for each in found] == pytest.approx([float(part.mean()) for part in parts], rel=1e-5)
    assert all(each.advantage_abs == 1.0 for each in found)
    sizes = [len(part) for part in parts]
    penalised = sum(each.penalised * size for each, size in zip(found, sizes, strict=True))
    assert penalised == pytest.approx(sum(p == 0 for _, p in tokens))
    silenced = sum(each.silenced * size for each, size in zip(found, sizes, strict=True))
    assert silenced == pytest.approx(sum(p % 2 == 0 for _, p in tokens))


def test_segments_share_the_trained_tokens(run: RunTables) -> None:
    lines = {line.label: line.values[0] for line in observatory.segment_shares(run)}
    assert lines == pytest.approx({"high": 3 / 9, "unique": 2 / 9, "shared": 2 / 9, "own_kind": 2 / 9})


def test_without_rows_there_is_nothing(tmp_path: Path) -> None:
    run = read_tables(tmp_path)
    assert not run.has_rows
    pieces = (
        observatory.histogram,
        observatory.by_correctness,
        observatory.by_difficulty,
        observatory.by_position,
        observatory.covariance_tail,
        observatory.segment_shares,
        observatory.fifths,
    )
    assert [piece(run) for piece in pieces] == [[]] * len(pieces)


# ---------------------------------------------------------------- the fit


def test_an_exact_curve_is_found_to_the_bit() -> None:
    entropy = [0.05 + 0.01 * step for step in range(60, 0, -1)]
    fit = fit_entropy(entropy, [1.9 - 0.9 * math.exp(h) for h in entropy])
    assert fit is not None
    assert (fit.a, fit.b, fit.ceiling) == pytest.approx((0.9, 1.9, 1.0), abs=1e-12)
    assert (fit.low, fit.high) == pytest.approx((1.0, 1.0), abs=1e-9)
    assert fit.explained == pytest.approx(1.0)
    assert fit.error_ahead < 1e-9 < fit.error_of_last
    assert fit.holds
    assert fit.at(0.3) == pytest.approx(1.9 - 0.9 * math.exp(0.3))


def test_least_squares_is_that_of_numpy() -> None:
    draw = np.random.default_rng(1)
    entropy = draw.uniform(0.05, 0.8, 90)
    accuracy = 1.4 - 0.5 * np.exp(entropy) + draw.normal(0, 0.05, 90)
    fit = fit_entropy(entropy.tolist(), accuracy.tolist())
    assert fit is not None
    slope, intercept = np.polyfit(np.exp(entropy), accuracy, 1)
    assert (fit.a, fit.b) == pytest.approx((-slope, intercept), rel=1e-9)
    assert fit.explained == pytest.approx(np.corrcoef(np.exp(entropy), accuracy)[0, 1] ** 2, rel=1e-9)


@pytest.mark.full
def test_the_interval_holds_the_ceiling_about_as_often_as_it_says() -> None:
    """Of 200 curves whose ceiling is 0.9, neighbouring errors alike."""
    draw = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        entropy = np.linspace(0.6, 0.05, 100) + draw.normal(0, 0.02, 100)
        error = np.convolve(draw.normal(0, 0.04, 103), np.ones(4) / 2, "valid")
        fit = fit_entropy(entropy.tolist(), (1.5 - 0.6 * np.exp(entropy) + error).tolist())
        assert fit is not None
        hits += fit.low <= 0.9 <= fit.high
    assert 0.85 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("entropy", "accuracy"),
    [([0.1] * 40, [0.5] * 40), ([0.1, 0.2] * 9, [0.5] * 18), ([], [])],
    ids=["no movement", "too few", "none"],
)
def test_what_cannot_be_fitted_is_not(entropy: list[float], accuracy: list[float]) -> None:
    assert fit_entropy(entropy, accuracy) is None


def test_a_relation_that_is_not_there_gives_no_ceiling() -> None:
    rising = [0.1 + 0.01 * step for step in range(40)]
    fit = fit_entropy(rising, [0.2 + 0.01 * step for step in range(40)])
    assert fit is not None
    assert fit.a < 0
    assert "accuracy did not rise as entropy fell" in worth(fit)
    assert "no ceiling is told" in worth(fit)
    poor = Fit(1.0, 2.0, 1.0, 0.5, 1.5, 0.3, 0.1, 0.1)
    assert "it explains 30% of the variance" in worth(poor)
    beyond = Fit(1.0, 2.2, 1.2, 1.1, 1.3, 0.9, 0.1, 0.1)
    assert "1.200. It lies outside what a share can be." in worth(beyond)
