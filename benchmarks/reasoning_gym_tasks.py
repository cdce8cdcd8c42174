"""Every task of reasoning-gym: what it pays right and wrong answers, and what our grader says of them.

    python benchmarks/reasoning_gym_tasks.py OUT.json     raw counts; the table in Markdown is printed

Of each task six items are drawn at its own difficulty. Right is the answer that the item states. Wrong are
the answers of the other five, where they differ, and three that answer nothing.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from reasoning_gym.factory import CURRICULA, DATASETS

from megaent.puzzles.puzzles import Item, Puzzles

ITEMS = 6
NOTHING = ("I do not know.", "0", "[]")


def main(out: Path) -> None:
    puzzles, rows = Puzzles(), []
    for name in sorted(set(DATASETS) - {"composite"}):
        begun = time.monotonic()
        rows.append(measured(puzzles, name) | {"seconds": round(time.monotonic() - begun, 2)})
        print(name, rows[-1], file=sys.stderr)
    puzzles.close()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"reasoning-gym": version("reasoning-gym"), "tasks": rows}, indent=1) + "\n")
    print(table(rows))


def measured(puzzles: Puzzles, name: str) -> dict[str, object]:
    items = puzzles.draw(name, level=-1, size=ITEMS)
    right = [(item, item.answer) for item in items if item.answer is not None]
    others = [(item, other.answer) for item in items for other in items if is_other(item, other)]
    nothing = [(item, answer) for item in items for answer in NOTHING if answer != item.answer]
    told = {
        kind: puzzles.judge(cases)
        for kind, cases in (("right", right), ("other", others), ("nothing", nothing))
    }
    counts: dict[str, object] = {
        "task": name,
        "levels": levels(name),
        "states answers": len(right) == len(items),
    }
    for kind, judged in told.items():
        counts |= {
            f"{kind}: cases": len(judged),
            f"{kind}: correct": sum(each.correct for each in judged),
            f"{kind}: most paid": round(max((each.paid for each in judged), default=0.0), 3),
            f"{kind}: failed": sum(bool(each.failure) for each in judged),
        }
    return counts


def is_other(item: Item, other: Item) -> bool:
    return other.answer is not None and other.answer != item.answer


def levels(name: str) -> int:
    """How many ``data.level`` knows: as many as the attribute with most."""
    if name not in CURRICULA:
        return 0
    return max(len(attribute.levels) for attribute in CURRICULA[name]().attributes.values())


def table(rows: list[dict[str, object]]) -> str:
    head = (
        "| task | levels | own answer is right | most paid for another's, for nothing | called right here |"
    )
    lines = [head, "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        own = f"{row['right: correct']} of {row['right: cases']}" if row["states answers"] else "none stated"
        paid = f"{row['other: most paid']:.2f}, {row['nothing: most paid']:.2f}"
        wrong = int(str(row["other: correct"])) + int(str(row["nothing: correct"]))
        cases = int(str(row["other: cases"])) + int(str(row["nothing: cases"]))
        lines.append(f"| `{row['task']}` | {row['levels'] or ''} | {own} | {paid} | {wrong} of {cases} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
