"""Published measurements beside what `megaent plan` says of them: errors by source and by row.

    python benchmarks/plan_rows.py               both tables and errors.json, into benchmarks/results/plan
    python benchmarks/plan_rows.py --file X.csv  other rows with the same columns, to the terminal
    python benchmarks/plan_rows.py --fit         the constants that are fitted, found again and printed

Projects in alphabetical order, letters' case aside: the first, third, fifth … are fitted on, the others are
only judged. No step of reinforcement learning is fitted on, whose it may be.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from megaent.errors import ConfigError
from megaent.plan.constants import Constants
from megaent.plan.rows import Predicted, predict, read_rows

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "plan"

# What the source column says, and the project whose software and cluster were measured.
PROJECTS = (
    ("cases_april2021", "arXiv 2104.04473"),
    ("calculon", "arXiv 2205.05198"),
    ("AutoModel", "AutoModel"),
    ("dgxc-benchmarking", "dgxc-benchmarking"),
    ("llm-foundry", "llm-foundry"),
    ("Megatron-Bridge", "Megatron-Bridge"),
    ("Megatron-LM examples", "Megatron-LM"),
    ("NeMo-RL", "NeMo-RL"),
    ("NVIDIA/NeMo", "NeMo"),
    ("prime-rl", "prime-rl"),
    ("SimuMax", "SimuMax"),
    ("SkyRL", "SkyRL"),
    ("torchtitan", "torchtitan"),
    ("torchtune", "torchtune"),
)
FITTED = sorted((name for _, name in PROJECTS), key=str.casefold)[::2]
_RATES = re.compile(r"tokens_per_s|tflops")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One row; ``error`` is planned over published time or memory, less one; None without a plan."""

    project: str
    row: dict[str, str]
    kind: str  # dense | experts | adapter | memory | rl
    is_complete: bool = False
    planned: float | None = None
    error: float | None = None
    why_not: str = ""

    @property
    def half(self) -> str:
        """No step of reinforcement learning is fitted on, whose project it may be."""
        return "fitted" if self.project in FITTED and self.kind != "rl" else "judged"


def project_of(source: str) -> str:
    return next((name for word, name in PROJECTS if word in source), source.split()[0])


def outcomes(rows: Iterable[dict[str, str]], constants: Constants) -> list[Outcome]:
    return [_outcome(row, constants) for row in rows]


def _outcome(row: dict[str, str], constants: Constants) -> Outcome:
    project = project_of(row["source"])
    if row["metric"].endswith("upper_bound"):
        return Outcome(project=project, row=row, kind="bound", why_not="a gate, not a measurement")
    try:
        found = predict(row, constants)
    except ConfigError as error:
        return Outcome(project=project, row=row, kind="none", why_not=str(error).split(";")[0])
    published = float(row["value"])
    ratio = published / found.value if _RATES.search(row["metric"]) else found.value / published
    return Outcome(
        project=project, row=row, kind=_kind(row, found), is_complete=found.is_complete,
        planned=found.value, error=ratio - 1,
    )  # fmt: skip


def _kind(row: dict[str, str], found: Predicted) -> str:
    if row["workload"] == "rl_step":
        return "rl"
    if row["unit"] == "GiB":
        return "memory"
    if "LoRA" in row["notes"]:
        return "adapter"
    return "experts" if found.has_experts else "dense"


# ---------------------------------------------------------------- summaries


def summary(found: Sequence[Outcome]) -> dict[str, float]:
    """Count, median and 90 % quantile of the absolute errors, and the mean with its sign."""
    errors = sorted(abs(one.error) for one in found if one.error is not None)
    if not errors:
        return {"rows": 0}
    signed = [one.error for one in found if one.error is not None]
    return {
        "rows": len(errors),
        "median": statistics.median(errors),
        "nine_in_ten": errors[math.ceil(0.9 * len(errors)) - 1],
        "worst": errors[-1],
        "mean": statistics.fmean(signed),
    }


def parts(found: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """By half and kind, dense rows once more for those that state everything."""
    groups: dict[str, list[Outcome]] = {}
    for one in found:
        if one.error is None:
            continue
        groups.setdefault(f"{one.half} {one.kind}", []).append(one)
        if one.kind == "dense" and one.is_complete:
            groups.setdefault(f"{one.half} dense, complete", []).append(one)
    return {name: summary(group) for name, group in sorted(groups.items())}


def by_project(found: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    names = sorted({(one.project, one.kind) for one in found if one.error is not None})
    return {
        f"{project}: {kind}": summary([one for one in found if (one.project, one.kind) == (project, kind)])
        for project, kind in names
    }


# ---------------------------------------------------------------- fitting


def fit(rows: Sequence[dict[str, str]]) -> Constants:
    """Coordinate descent inside the intervals on the fitting half; projects and kinds weigh the same."""
    mine = [row for row in rows if project_of(row["source"]) in FITTED]
    best, constants = _loss(mine, Constants()), Constants()
    names = [item for item in fields(Constants) if item.metadata["source"].startswith("fitted")]
    for width in (0.25, 0.25, 0.12, 0.12, 0.06, 0.03):
        for item in names:
            low, high = item.metadata["low"], item.metadata["high"]
            for step in (-width, width):
                value = getattr(constants, item.name) + step * (high - low)
                tried = replace(constants, **{item.name: min(high, max(low, value))})
                loss = _loss(mine, tried)
                if loss < best - 1e-6:
                    best, constants = loss, tried
        print(f"loss {best:.4f}")
    return constants


def _loss(rows: Sequence[dict[str, str]], constants: Constants) -> float:
    """Mean over projects and kinds of the mean absolute logarithm, each row's share bounded at 0.5."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one in outcomes(rows, constants):
        if one.error is not None and one.kind != "rl":
            groups.setdefault((one.project, one.kind), []).append(min(0.5, abs(math.log1p(one.error))))
    return statistics.fmean(statistics.fmean(group) for group in groups.values())


# ---------------------------------------------------------------- tables


def table(title: str, found: dict[str, dict[str, float]]) -> str:
    lines = [
        f"| {title} | rows | median | nine in ten within | worst | mean |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, values in found.items():
        shares = [f"{values[key]:.1%}" for key in ("median", "nine_in_ten", "worst")]
        lines.append(f"| {name} | {values['rows']:.0f} | {' | '.join(shares)} | {values['mean']:+.1%} |")
    return "\n".join(lines) + "\n"


def row_table(found: Sequence[Outcome]) -> str:
    lines = [
        "| half | project | model | cards | TP·PP·CP·EP | length | precision | recompute | metric "
        "| published | planned | error |"
    ]
    lines.append("| --- | --- | --- | --- | --- | ---: | --- | --- | --- | ---: | ---: | ---: |")
    lines += [_row_line(one) for one in found]
    return "\n".join(lines) + "\n"


def _row_line(one: Outcome) -> str:
    row = one.row
    layout = "·".join(row[name] or "?" for name in ("tp", "pp", "cp", "ep"))
    planned = f"{one.planned:.4g}" if one.planned is not None else "—"
    error = f"{one.error:+.1%}" if one.error is not None else one.why_not
    cells = [
        one.half, one.project, row["model"], f"{row['n_gpus']} {row['gpu']}", layout, row["seq_len"],
        row["precision"], row["recompute"], row["metric"], row["value"], planned, error,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, help="rows to plan, instead of the published ones")
    parser.add_argument("--fit", action="store_true", help="find the fitted constants again and print them")
    options = parser.parse_args()
    rows = read_rows(options.file or HERE / "plan_rows.csv")
    if options.fit:
        for name, value in asdict(fit(rows)).items():
            print(f"{name}: {value:.4g}")
        return
    found = outcomes(rows, Constants())
    shown = table("half and kind", parts(found)) + "\n" + table("project and kind", by_project(found))
    print(shown if options.file is None else f"{row_table(found)}\n{shown}")
    if options.file is None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "README.md").write_text(f"{HEADER}\n{shown}\n## Every row\n\n{row_table(found)}")
        (RESULTS / "errors.json").write_text(
            json.dumps(
                {"all": summary(found), "parts": parts(found), "projects": by_project(found)}, indent=1
            )
            + "\n"
        )


HEADER = """# What `megaent plan` says of published measurements

`python benchmarks/plan_rows.py` writes this page. An error is planned over published time or memory, less
one, so plus means that the plan is too slow or too large. Projects in alphabetical order: the first, third,
fifth … were fitted on, the others only judged, and so is every step of reinforcement learning. Complete rows
state their microbatch and what they recompute; of the others, nothing is recomputed.
"""


if __name__ == "__main__":
    main()
