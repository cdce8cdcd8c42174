"""Methods side by side: tune each equally, then run each on fresh seeds, paired with GRPO.

    python benchmarks/compare_methods.py tune    --task worked_sums --seeds 101 102 --settings 2
    python benchmarks/compare_methods.py run     --task worked_sums --seeds $(seq 1 20)
    python benchmarks/compare_methods.py table   --task worked_sums
    python benchmarks/compare_methods.py power   --task worked_sums
    python benchmarks/compare_methods.py figures --task worked_sums

Tasks of the demonstration's scale start from a warm-up of their seed or from one for all seeds, as
comparison/arms.py says; SmolLM2 starts as published. ``tune`` tries the settings of each arm; ``run`` takes
the best one on average, the published one where nothing was tuned. Each finished run is one line of raw JSON,
kept as it comes, so an interrupted command goes on where it was. ``table`` prints means and paired
differences, ``power`` what the seeds could have shown, ``figures`` draws the learning curves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from comparison import figures, table
from comparison.arms import SCALES, arms, overrides
from comparison.runs import ROOT, read, run_all

RESULTS = ROOT / "benchmarks/results/epyc-2.4ghz-2cores/methods"


def jobs(options: argparse.Namespace, tuned: list[dict]) -> list[dict]:
    """Seed after seed, so that every arm has as many when the time is over."""
    all_arms, best = arms(options.task), table.chosen(tuned)

    def settings(name: str) -> list[tuple[str, ...]]:
        of = all_arms[name].tuned_as or name
        if options.action == "run":
            return [tuple(best.get(of, all_arms[of].settings[0]))]
        return list(all_arms[name].settings[: options.settings])

    return [
        {
            "task": options.task,
            "arm": name,
            "setting": list(setting),
            "seed": seed,
            "overrides": overrides(options.task, all_arms[name], setting, seed, options.steps),
        }
        for seed in options.seeds
        for name in options.arms or all_arms
        for setting in settings(name)
    ]


def show(options: argparse.Namespace, rows: list[dict], tuned: list[dict]) -> None:
    """``table``, ``power`` and ``figures``, on what is there."""
    if not rows:
        print(f"no run of {options.task} has finished yet")
    elif options.action == "power":
        print(table.what_seeds_tell(options.task, rows))
    elif options.action == "figures":
        print("\n".join(map(str, figures.draw(options.task, rows, options.out))))
    else:
        print(table.means(options.task, rows), table.differences(options.task, rows), sep="\n\n")
    if tuned and options.action == "table":
        print("", table.tuning(tuned), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table", "power", "figures"))
    parser.add_argument("--task", choices=sorted(SCALES), required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="*", help="all by default")
    parser.add_argument(
        "--settings", type=int, help="how many of each arm's settings to tune over; all by default"
    )
    parser.add_argument("--steps", type=int, help="of each run; the experiment's by default")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    unknown = set(options.arms or ()) - arms(options.task).keys()
    if unknown:
        parser.error(f"--arms must be of {', '.join(arms(options.task))}, got {', '.join(sorted(unknown))}")
    tuning, results = options.out / f"{options.task}_tuning.jsonl", options.out / f"{options.task}.jsonl"
    tuned = read(tuning)
    if options.action in ("tune", "run"):
        run_all(jobs(options, tuned), tuning if options.action == "tune" else results, options.jobs)
    else:
        show(options, table.finished(read(results)), tuned)


if __name__ == "__main__":
    main()
