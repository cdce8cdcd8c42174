"""The comparison of methods: its statistics against scipy 1.17 and by hand, its rows, tables and pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparison import figures, paired, runs, table
from comparison.arms import SCALES, Arm, arms, overrides

from megaent.config.composition import compose_config

# ---------------------------------------------------------------- statistics


def test_a_paired_difference_is_scipys() -> None:
    # scipy.stats.ttest_rel of these five pairs, its confidence interval at 1 - 0.05 / 3.
    pairs = zip([0.71, 0.65, 0.80, 0.77, 0.69], [0.60, 0.66, 0.70, 0.61, 0.68], strict=True)
    found = paired.difference([a - b for a, b in pairs], comparisons=3)
    assert found.mean == pytest.approx(0.074, rel=1e-12)
    assert found.p == pytest.approx(0.08201021279255728, rel=1e-9)
    assert found.mean - found.half_width == pytest.approx(-0.05286888164837518, rel=1e-9)


def test_differences_that_are_all_the_same_leave_no_doubt() -> None:
    assert paired.difference([0.25, 0.25, 0.25], 2) == paired.Difference(0.25, 0.0, 0.0, 3)
    assert paired.difference([0.0, 0.0], 2) == paired.Difference(0.0, 0.0, 1.0, 2)


def test_one_pair_is_no_difference() -> None:
    with pytest.raises(ValueError, match="needs at least 2 seeds, got 1"):
        paired.difference([0.1], 1)


def test_holm_by_hand() -> None:
    # Times 4, 3, 2, 1 in order of size, and never below one before: 0.04, 0.06, 0.06, 0.04 -> 0.06.
    adjusted = paired.holm({"c": 0.03, "a": 0.01, "d": 0.04, "b": 0.02})
    assert [adjusted[name] for name in "abcd"] == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert paired.holm({"x": 0.7, "y": 0.9}) == {"x": 1.0, "y": 1.0}


@pytest.mark.parametrize(
    ("shift", "seeds", "alpha", "expected"),
    # scipy.stats.nct, both tails.
    [
        (0.001, 5, 0.05, 0.050000071023738275),
        (2.0, 5, 0.05, 0.3359651039111674),
        (4.0, 5, 0.05, 0.8432964389085801),
        (2.0, 20, 0.05, 0.4756058311519928),
        (4.0, 20, 0.05, 0.9664318140516249),
        (2.0, 20, 0.05 / 15, 0.12432277776430718),
        (4.0, 20, 0.05 / 15, 0.7286441858898127),
    ],
)
def test_power_is_that_of_the_noncentral_t(shift: float, seeds: int, alpha: float, expected: float) -> None:
    assert paired.power(shift, seeds, alpha) == pytest.approx(expected, abs=1e-9)


def test_the_smallest_difference_is_scipys_and_grows_with_arms_and_noise() -> None:
    # scipy.optimize.brentq on scipy.stats.nct.
    assert paired.smallest_difference(1.0, 20) == pytest.approx(0.6604416546230185, rel=1e-7)
    assert paired.smallest_difference(0.1, 5) == pytest.approx(0.16819969659557643, rel=1e-7)
    among = paired.smallest_difference(1.0, 20, comparisons=15)
    assert paired.power(among * 20**0.5, 20, 0.05 / 15) == pytest.approx(0.8, abs=1e-9)
    assert among > 0.9


# ---------------------------------------------------------------- rows


def row(arm: str, seed: int, accuracy: float, *, length: float = 20.0, words: tuple[str, ...] = ()) -> dict:
    """A finished run in which every accuracy is ``accuracy`` and was 0.2 before."""

    def evaluation(right: float) -> dict:
        keys = {"mean_length": length, "mean_entropy": 0.5}
        for split in ("easy", "hard"):
            keys |= {f"{split}/{name}": right for name in ("accuracy", "pass_at_8", "worst_at_8")}
            keys |= {f"{split}/mean_length": length, f"{split}/mean_first_entropy": 0.1}
            keys |= {f"{split}/accuracy_low": right - 0.05, f"{split}/accuracy_high": right + 0.05}
        return keys

    return {
        "task": "worked_sums",
        "arm": arm,
        "setting": list(words),
        "seed": seed,
        "before": evaluation(0.2),
        "after": evaluation(accuracy),
        "trajectory": {name: [0.1, accuracy] for name in figures.CURVES},
        "entropy_by_position": [0.5, 0.25],
    }


@pytest.fixture
def rows() -> list[dict]:
    grpo = [row("grpo", seed, right) for seed, right in enumerate((0.25, 0.60, 0.70))]
    less = [row("less", seed, right, length=18.0) for seed, right in enumerate((0.35, 0.65, 0.75))]
    return grpo + less


def cells(markdown: str, first: str) -> list[str]:
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_differences_are_of_the_same_seeds(rows: list[dict]) -> None:
    shown = table.differences("worked_sums", [*rows, row("less", 9, 1.0)])
    # 0.10, 0.05, 0.05: mean 0.0667, deviation 0.0289, t(0.975, 2) = 4.3027: 4.3027 * 0.0289 / sqrt(3).
    assert cells(shown, "less")[:3] == ["less", "3", "+0.067 ± 0.072"]
    assert cells(shown, "less")[6] == "**-2.000 ± 0.000**"


def test_only_the_setting_that_was_run_last_counts(rows: list[dict]) -> None:
    again = [row("less", 0, 0.9, words=("method.min_length=2",)), {**row("less", 1, 0.9), "failed": 3}]
    kept = table.finished([*rows, *again[:1]])
    assert [(r["arm"], r["seed"]) for r in kept] == [("grpo", 0), ("grpo", 1), ("grpo", 2), ("less", 0)]
    assert table.finished(again[1:]) == []


def test_what_seeds_tell_counts_the_seeds_that_learnt(rows: list[dict]) -> None:
    shown = table.what_seeds_tell("worked_sums", rows)
    assert shown.startswith("grpo learnt in 2 of 3 seeds")
    # 0.25, 0.60, 0.70: mean 0.517, deviation 0.236; differences as above.
    assert cells(shown, "right, hard")[1:4] == ["0.517", "0.236", "0.029"]


def test_tuning_takes_the_best_mean_and_of_equals_the_published(rows: list[dict]) -> None:
    weak, strong = (row("kl_cov", 0, right, words=(f"method.fraction={right}",)) for right in (0.3, 0.5))
    assert table.chosen([weak, strong])["kl_cov"] == ["method.fraction=0.5"]
    same = {**weak, "setting": ["other"]}
    assert table.chosen([weak, same])["kl_cov"] == ["method.fraction=0.3"]
    # Accuracy 0.3 on both splits, 20 of 48 tokens.
    assert table.score(weak) == pytest.approx(0.3 - 0.1 * 20 / 48)


def test_pictures_show_every_arm_and_stay_small(rows: list[dict], tmp_path: Path) -> None:
    drawn = figures.draw("worked_sums", rows, tmp_path)
    assert [path.name for path in drawn] == [
        f"worked_sums_{name}.png" for name in ("accuracy", "length", "entropy", "positions")
    ]
    assert all(1_000 < path.stat().st_size < 150_000 for path in drawn)


def test_a_picture_of_grpo_alone_is_refused(rows: list[dict], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an arm beside grpo, and worked_sums has none"):
        figures.draw("worked_sums", [r for r in rows if r["arm"] == "grpo"], tmp_path)


def test_what_is_there_is_not_run_again(tmp_path: Path, rows: list[dict]) -> None:
    kept = tmp_path / "rows.jsonl"
    kept.write_text("".join(json.dumps(r) + "\n" for r in rows))
    runs.run_all([dict(r) for r in rows], kept, workers=1)
    assert runs.read(kept) == rows


WORKING = """
import os, sys, time
from comparison.runs import pool_of
if __name__ == "__main__":
    with pool_of(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""


@pytest.mark.full
def test_a_killed_comparison_leaves_no_run_behind(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "working.py").write_text(WORKING)
    path = os.pathsep.join([str(repository / "benchmarks"), str(repository)])
    command = [sys.executable, str(tmp_path / "working.py")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE) as parent:
        worker = Path("/proc", parent.stdout.readline().decode().strip())
        assert worker.exists()
        parent.kill()
    deadline = time.monotonic() + 30
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker.exists()


# ---------------------------------------------------------------- arms


def test_an_arms_own_words_win_over_the_setting_it_took() -> None:
    arm = Arm("ceeh", (), ("method.beta=0",), tuned_as="ceeh_me")
    words = overrides("worked_sums", arm, ["method.beta=0.02", "method.lam0=0.005"], 4, None)
    assert [word for word in words if word.startswith("method.")] == ["method.beta=0", "method.lam0=0.005"]


def test_a_task_starts_from_one_model_or_from_one_a_seed() -> None:
    plain = arms("worked_sums")["grpo"]
    assert "model.warmup_seed=4" not in overrides("worked_sums", plain, (), 4, None)
    assert "model.warmup_seed=4" in overrides("two_strategies", plain, (), 4, None)


@pytest.mark.full
@pytest.mark.parametrize("name", arms("worked_sums"))
def test_every_setting_of_an_arm_is_a_configuration(name: str) -> None:
    every = arms("worked_sums")
    for setting in every[every[name].tuned_as or name].settings:
        config, _ = compose_config(overrides("worked_sums", every[name], setting, 1, None))
        assert (config.seed, config.data.seed, config.data.name) == (1, 1, "worked_sums")


@pytest.mark.parametrize("task", SCALES)
def test_an_arm_is_tuned_or_takes_the_setting_of_one_that_is(task: str) -> None:
    for arm in arms(task).values():
        assert bool(arm.settings) != bool(arm.tuned_as)
        assert not arm.tuned_as or arms(task)[arm.tuned_as].settings
