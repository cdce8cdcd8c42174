"""Our pass@k and its kin beside those of lm-eval, lighteval, evalscope and verl, on cases counted in full.

    ./scripts/setup_estimators
    .venv/bin/python benchmarks/estimators.py OUT.json     raw errors; the table in Markdown is printed

A case is a prompt's n responses, correct or with one of two wrong answers. The truth is the mean over all
subsets of k, ties of a vote broken by lot. Of the harnesses single functions are taken out of their installed
sources and run with numpy alone.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from statistics import fmean, pstdev
from types import SimpleNamespace
from typing import Any

import numpy as np

from megaent.evaluation import estimators as ours
from megaent.evaluation.estimators import Answers

SIZES = (1, 2, 3, 4, 5, 6)
SITE = "lib/python*/site-packages"
Case = tuple[str, ...]  # an answer a response; "right" is the right one
Of = Callable[[Case, int], float]


def main(out: Path, environment: Path) -> None:
    (site,) = environment.glob(SITE)
    rows = [row(metric, name, of) for metric, name, of in contenders(site)]
    versions = (environment / ".made_of").read_text() if (environment / ".made_of").exists() else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")
    print(table(rows))


# ---------------------------------------------------------------- the truth


def cases() -> Iterator[tuple[Case, int]]:
    for size in SIZES:
        for case in combinations_with_replacement(("right", "wrong", "other"), size):
            for k in range(1, size + 1):
                yield case, k


def truth(metric: str, case: Case, k: int) -> float:
    return fmean(of_subset(metric, subset) for subset in combinations(case, k))


def of_subset(metric: str, subset: Case) -> float:
    correct = [answer == "right" for answer in subset]
    if metric == "maj@k":
        counts = Counter(subset)
        first = [answer for answer, count in counts.items() if count == max(counts.values())]
        return ("right" in first) / len(first)
    return {"pass@k": max, "pass^k": min, "avg@k": fmean, "std@k": pstdev}[metric](map(float, correct))


# ---------------------------------------------------------------- who estimates


def contenders(site: Path) -> Iterator[tuple[str, str, Of]]:
    for metric in ("avg@k", "pass@k", "pass^k", "std@k", "maj@k"):
        yield metric, "megaent", lambda case, k, metric=metric: ours.ESTIMATORS[metric](answers(case), k)
    lm_eval = taken(site / "lm_eval/tasks/cruxeval/utils.py", "_pass_at_k")
    yield "pass@k", "lm-eval `_pass_at_k`", lambda case, k: lm_eval(len(case), right(case), k)
    pass_of = taken(site / "lighteval/metrics/metrics_sample.py", "PassAtK.pass_at_k")
    yield (
        "pass@k",
        "lighteval `PassAtK`",
        lambda case, k: pass_of(SimpleNamespace(n=len(case), k=k), marks(case)),
    )
    pass_at = taken(site / "evalscope/metrics/utils/functions.py", "calculate_pass_at_k")
    yield (
        "pass@k",
        "evalscope `calculate_pass_at_k`",
        lambda case, k: pass_at([len(case)], [right(case)], k)[0],
    )
    pass_hat = taken(site / "evalscope/metrics/utils/functions.py", "calculate_pass_hat_k")
    yield "pass^k", "evalscope `calculate_pass_hat_k`", lambda case, k: pass_hat(len(case), right(case), k)
    yield from of_verl(site / "verl/trainer/ppo/metric_utils.py")


def of_verl(file: Path) -> Iterator[tuple[str, str, Of]]:
    bootstrap, vote = taken(file, "bootstrap_metric"), taken(file, "calc_maj_val")

    def estimate(case: Case, k: int, reduce: Callable[[Any], float]) -> float:
        return bootstrap(marks(case), subset_size=k, reduce_fns=[reduce], seed=42)[0][0]

    def majority(case: Case, k: int) -> float:
        data = [{"pred": answer, "val": float(answer == "right")} for answer in case]
        return bootstrap(data, k, [lambda chosen: vote(chosen, "pred", "val")])[0][0]

    yield "pass@k", "verl `best@k`", lambda case, k: estimate(case, k, np.max)
    yield "pass^k", "verl `worst@k`", lambda case, k: estimate(case, k, np.min)
    yield "maj@k", "verl `maj@k`", majority


def answers(case: Case) -> Answers:
    correct = tuple(answer == "right" for answer in case)
    return Answers(correct=correct, reward=tuple(map(float, correct)), answer=case)


def right(case: Case) -> int:
    return case.count("right")


def marks(case: Case) -> list[int]:
    return [int(answer == "right") for answer in case]


def taken(file: Path, name: str, **seen: object) -> Callable[..., Any]:
    """One function, or method, out of an installed source, without its module's imports; it sees ``seen``."""
    nodes: list[ast.stmt] = ast.parse(file.read_text()).body
    for part in name.split("."):
        (node,) = [n for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part]
        nodes = node.body
    import itertools
    import math
    import typing

    names = {"np": np, "math": math, "itertools": itertools, "defaultdict": defaultdict, **vars(typing)}
    names |= {"Callable": Callable, **seen}
    exec(compile(ast.Module([node], []), str(file), "exec"), names)
    return names[name.split(".")[-1]]


# ---------------------------------------------------------------- the table


def row(metric: str, name: str, of: Of) -> dict[str, object]:
    errors = [abs(of(case, k) - truth(metric, case, k)) for case, k in cases()]
    return {
        "metric": metric,
        "who": name,
        "cases": len(errors),
        "largest error": max(errors),
        "mean error": fmean(errors),
        "two wrong of k=4": of_too_few(metric, name, of),
    }


def of_too_few(metric: str, name: str, of: Of) -> str:
    """What is said of pass@4 and its kin where a prompt has two responses, both wrong."""
    if name == "megaent":
        known = ours.estimate(ours.ESTIMATORS[metric], [answers(("wrong", "other"))], 4)
        return f"not known ({known.known} of {known.prompts} prompts)"
    try:
        return f"{of(('wrong', 'other'), 4):.3f}"
    except (ValueError, AssertionError) as refusal:
        return f"refused: {refusal}"


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| metric | who | largest error | mean error | k = 4 of two wrong responses |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    for each in rows:
        errors = f"{each['largest error']:.1e} | {each['mean error']:.1e}"
        lines.append(f"| {each['metric']} | {each['who']} | {errors} | {each['two wrong of k=4']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else ".venv-estimators"))
