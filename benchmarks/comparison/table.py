"""What the runs say, in Markdown: means, paired differences to GRPO, what seeds can tell, the tuning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median, stdev

from comparison.arms import SCALES, arms
from comparison.paired import ALPHA, difference, holm, smallest_difference

from megaent.report.interval import mean_of

Evaluations = dict[str, dict[int, dict[str, float]]]  # arm -> seed -> evaluation


def columns(task: str) -> dict[str, str]:
    """Heading -> key of an evaluation."""
    easy, hard = SCALES[task].easy, SCALES[task].hard
    return {
        f"right, {easy}": f"{easy}/accuracy",
        f"right, {hard}": f"{hard}/accuracy",
        f"pass@8, {hard}": f"{hard}/pass_at_8",
        f"worst@8, {hard}": f"{hard}/worst_at_8",
        f"tokens, {easy}": f"{easy}/mean_length",
        f"tokens, {hard}": f"{hard}/mean_length",
        "entropy": "mean_entropy",
        f"first token, {hard}": f"{hard}/mean_first_entropy",
    }


def finished(rows: Iterable[dict]) -> list[dict]:
    """Runs that ended well, of each arm those of the setting that was run last."""
    rows = list(rows)
    settings = {row["arm"]: row["setting"] for row in rows}
    return [row for row in rows if "failed" not in row and row["setting"] == settings[row["arm"]]]


def evaluations(rows: Iterable[dict], when: str = "after") -> Evaluations:
    by_arm: Evaluations = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {})[row["seed"]] = row[when]
    return by_arm


def means(task: str, rows: list[dict]) -> str:
    """Mean and 95 % interval of Student's t over seeds, of every arm and of the start."""
    keys = columns(task)
    settings = {row["arm"]: " ".join(row["setting"]) for row in rows}
    starts = {row["seed"]: row["before"] for row in rows}
    lines = _heading("arm", ["seeds", *keys])
    for arm, of_seed in {"before": starts, **evaluations(rows)}.items():
        cells = [_mean([evaluation[key] for evaluation in of_seed.values()]) for key in keys.values()]
        lines.append(_row(f"{arm} {settings.get(arm, '')}".strip(), [str(len(of_seed)), *cells]))
    return "\n".join(lines)


def differences(task: str, rows: list[dict]) -> str:
    """Differences to GRPO on the same seeds; an interval holds for all arms of its column at once."""
    keys, pairs = columns(task), paired_values(task, rows)
    cells: dict[str, list[str]] = {arm: [] for arm in pairs}
    for heading in keys:
        found = {arm: difference(values[heading], len(pairs)) for arm, values in pairs.items()}
        sure = holm({arm: d.p for arm, d in found.items()})
        for arm, d in found.items():
            text = f"{d.mean:+.3f} ± {d.half_width:.3f}"
            cells[arm].append(f"**{text}**" if sure[arm] < ALPHA else text)
    lines = _heading("difference to grpo", ["seeds", *keys])
    for arm, values in pairs.items():
        seeds = len(next(iter(values.values())))
        lines.append(_row(arm, [str(seeds), *cells[arm]]))
    return "\n".join(lines)


def paired_values(task: str, rows: list[dict]) -> dict[str, dict[str, list[float]]]:
    """Arm -> heading -> differences to GRPO, for arms with at least two seeds beside GRPO's."""
    by_arm = evaluations(rows)
    plain = by_arm.pop("grpo", {})
    pairs = {arm: sorted(of_seed.keys() & plain.keys()) for arm, of_seed in by_arm.items()}
    return {
        arm: {
            heading: [by_arm[arm][seed][key] - plain[seed][key] for seed in seeds]
            for heading, key in columns(task).items()
        }
        for arm, seeds in pairs.items()
        if len(seeds) > 1
    }


def what_seeds_tell(task: str, rows: list[dict]) -> str:
    """GRPO's deviation over seeds, that of paired differences, and the smallest difference they show.

    The deviation of paired differences is the median arm's; with no arm beside GRPO, that of two
    independent runs. A difference is shown by an arm alone, or by one of all arms that there are.
    """
    plain = evaluations(rows).get("grpo", {})
    if len(plain) < 2:
        return f"grpo has {len(plain)} finished seeds of {task}; what seeds can tell takes at least 2"
    pairs, seeds, others = paired_values(task, rows), len(plain), len(arms(task)) - 1
    lines = [
        f"grpo learnt in {learnt(task, rows)} of {seeds} seeds: the 95 % interval over prompts of what it "
        "gets right on the hard split lies wholly above that of the start.",
        "",
        *_heading(
            f"{seeds} seeds",
            ["grpo", "deviation", "of differences", "shown by one arm", f"by one of {others}", "in %"],
        ),
    ]
    for heading, key in columns(task).items():
        values = [evaluation[key] for evaluation in plain.values()]
        spread = median([stdev(v[heading]) for v in pairs.values()] or [math.sqrt(2) * stdev(values)])
        alone, among = (smallest_difference(spread, seeds, m) for m in (1, others))
        share = (
            f"{100 * alone / fmean(values):.1f}, {100 * among / fmean(values):.1f}" if fmean(values) else ""
        )
        numbers = (fmean(values), stdev(values), spread, alone, among)
        lines.append(_row(heading, [*(f"{number:.3f}" for number in numbers), share]))
    return "\n".join(lines)


def learnt(task: str, rows: list[dict]) -> int:
    hard = SCALES[task].hard
    plain = [row for row in rows if row["arm"] == "grpo"]
    return sum(row["after"][f"{hard}/accuracy_low"] > row["before"][f"{hard}/accuracy_high"] for row in plain)


# ---------------------------------------------------------------- tuning


def score(row: dict) -> float:
    """What tuning maximises, the same for every arm: accuracy over easy and hard, less a price for length."""
    if "failed" in row:
        return -math.inf
    after, scale = row["after"], SCALES[row["task"]]
    both = (after[f"{scale.easy}/accuracy"] + after[f"{scale.hard}/accuracy"]) / 2
    return both - 0.1 * after["mean_length"] / scale.longest


def chosen(rows: Iterable[dict]) -> dict[str, list[str]]:
    """Arm -> the setting of the highest mean score; of equals the published one."""
    by_arm: dict[str, dict[tuple, list[float]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {}).setdefault(tuple(row["setting"]), []).append(score(row))
    return {arm: list(max(settings, key=lambda s: fmean(settings[s]))) for arm, settings in by_arm.items()}


def tuning(rows: list[dict]) -> str:
    best = chosen(rows)
    lines = _heading("arm", ["setting", "seeds", "score", "taken"])
    for arm, setting in dict.fromkeys((row["arm"], tuple(row["setting"])) for row in rows):
        scores = [score(row) for row in rows if (row["arm"], tuple(row["setting"])) == (arm, setting)]
        taken = "yes" if list(setting) == best[arm] else ""
        lines.append(_row(arm, [" ".join(setting), str(len(scores)), f"{fmean(scores):.3f}", taken]))
    return "\n".join(lines)


# ---------------------------------------------------------------- Markdown


def _mean(values: Sequence[float]) -> str:
    mean = mean_of(values)
    return f"{mean.value:.3f}" + ("" if mean.half_width is None else f" ± {mean.half_width:.3f}")


def _heading(first: str, others: Sequence[str]) -> list[str]:
    return [_row(first, others), "| --- " + "| ---: " * len(others) + "|"]


def _row(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"
