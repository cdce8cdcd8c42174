"""How many programs and how many exact answers a second are graded.

    python benchmarks/verifiers.py benchmarks/results/MACHINE/verifiers.json

Programs differ and add three numbers, one test each; each runs in a process of its own, isolated
as data.reward=code isolates it. Exact answers stand in a box at the end of a line of reasoning. What else the
machine did is in the load.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from comparison.runs import commit

from megaent.reward.by_text import ByText, same_text
from megaent.reward.code_answer import CodeAnswer
from megaent.sandbox.tests import read_tests
from megaent.types import Group, Prompt, Response

PROGRAMS, ANSWERS, WARM = 600, 20_000, 20


def group(number: int, text: str, key: str) -> Group:
    prompt = Prompt(id=f"bench/{number}", tokens=(1,), text="?", answer=key)
    return Group(
        index=number,
        prompt=prompt,
        responses=(Response(tokens=(1,), log_prob=(0.0,), finish="stop", version=0, text=text),),
    )


def program(number: int) -> Group:
    source = f"a, b, c = map(int, input().split())\nprint(a + b + c + {number})"
    key = read_tests({"inputs": ["1 2 3\n"], "outputs": [f"{6 + number}\n"]})
    return group(number, f"```python\n{source}\n```", key)


def answer(number: int) -> Group:
    return group(
        number, f"First {number} and then one more, so that it is \\boxed{{{number + 1}}}.", f"{number + 1}"
    )


def rate(grade: Callable[[Sequence[Group]], list[Group]], groups: Sequence[Group]) -> float:
    """A second, on the wall; the first ones, which start the workers, are not counted."""
    grade(groups[:WARM])
    started = time.perf_counter()
    graded = grade(groups[WARM:])
    took = time.perf_counter() - started
    if not all(grade.correct for each in graded for grade in each.grades):
        raise SystemExit("an answer that is right was graded wrong, so these figures mean nothing")
    return round(len(graded) / took, 1)


def main(out: Path) -> None:
    programs = [program(number) for number in range(PROGRAMS)]
    rates = {}
    for workers in (1, 2, 3):
        verifier = CodeAnswer(workers=workers)
        rates[f"programs a second, {workers} workers"] = rate(verifier.grade, programs)
        verifier.close()
    rates["exact answers a second"] = rate(
        ByText(grade_one=same_text).grade, list(map(answer, range(ANSWERS)))
    )
    told = {"commit": commit(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), **rates}
    out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
