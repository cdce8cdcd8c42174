"""How graders of mathematical answers do on the same responses, made from the keys of real data sets.

    python benchmarks/graders.py make DATA RESPONSES [--most 300]     JSON lines, from a folder of data
    python benchmarks/graders.py grade RESPONSES VERDICTS --grader NAME [--source FOLDER]
    python benchmarks/graders.py record VERDICTS… --out FILE          what is published
    python benchmarks/graders.py show VERDICTS… [--by set|form|wrong]

DATA holds .jsonl and .json files of questions and keys; how keys are read is megaent's. ``grade`` runs in any
interpreter that has the grader: megaent, math_verify, trl, verl_math_verify, verl_prime, verl_math_reward,
verl_math_dapo; for TRL and verl ``--source`` names a folder with their unpacked wheels, whose grading files
are loaded alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

COLUMNS = {
    "placed": "box placed",
    "notation": "box, notation",
    "stated": "no box, stated",
    "perturbed": "perturbed paid",
    "hedged": "hedged paid",
    "unstated": "unstated paid",
    "copied": "copied paid",
}
RIGHT = ("placed", "notation", "stated")
QUESTION, ANSWER = ("question", "problem", "prompt"), ("answer", "final_answer", "solution", "target")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("data", type=Path)
    make.add_argument("responses", type=Path)
    make.add_argument("--most", type=int, default=300, help="responses of one form and set; 0 for all")
    grade = commands.add_parser("grade")
    grade.add_argument("responses", type=Path)
    grade.add_argument("verdicts", type=Path)
    grade.add_argument("--grader", required=True)
    grade.add_argument("--source", type=Path)
    show = commands.add_parser("show")
    show.add_argument("verdicts", type=Path, nargs="+")
    show.add_argument("--by", choices=("set", "form", "wrong"), default="set")
    record = commands.add_parser("record")
    record.add_argument("verdicts", type=Path, nargs="+")
    record.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    {"make": _make, "grade": _grade, "show": _show, "record": _record}[options.command](options)


# ---------------------------------------------------------------- responses


def _make(options: argparse.Namespace) -> None:
    with options.responses.open("w", encoding="utf-8") as file:
        for path in sorted(options.data.glob("*.json*")):
            kept: Counter[str] = Counter()
            # By a hash, so that the first rows are a fair sample and the same everywhere.
            for row in sorted(
                _rows(path), key=lambda row: hashlib.sha256(row["question"].encode()).hexdigest()
            ):
                for response in _responses(row | {"set": path.stem}):
                    form = f"{response['kind']} {response['form']}"
                    kept[form] += 1
                    if not options.most or kept[form] <= options.most:
                        file.write(json.dumps(response) + "\n")


def _rows(path: Path) -> Iterator[dict]:
    from megaent.answers.key import read_key

    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else map(json.loads, filter(None, text.split("\n")))
    for row in rows:
        question = next((row[name] for name in QUESTION if row.get(name)), "")
        value = next((row[name] for name in ANSWER if row.get(name) not in (None, "")), None)
        work = row.get("solution") or row.get("answer") or ""
        work = work[0] if isinstance(work, list) and work else work
        try:
            yield {
                "question": question,
                "key": read_key(value),
                "work": work if isinstance(work, str) else "",
            }
        except ValueError:
            continue


def _responses(row: dict) -> Iterator[dict]:
    from right_forms import NOTATION, PLACED, STATED
    from wrong_forms import COPIED, HEDGED, PERTURBED, UNSTATED

    right = {"placed": PLACED, "notation": NOTATION, "stated": STATED}
    wrong = {"perturbed": PERTURBED, "hedged": HEDGED, "unstated": UNSTATED, "copied": COPIED}
    for kind, forms in (right | wrong).items():
        for form, make in forms.items():
            text = make(row["key"]) if kind in right else make(row["key"], row["question"], row["work"])
            if text is not None:
                said = {"kind": kind, "form": form, "key": row["key"], "text": text}
                yield said | {"set": row["set"], "question": row["question"]}


# ---------------------------------------------------------------- verdicts


def _grade(options: argparse.Namespace) -> None:
    responses = [json.loads(line) for line in options.responses.read_text(encoding="utf-8").splitlines()]
    verdicts, seconds, versions = _run(options.grader, responses, options.source)
    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    misses: dict[str, list[list[str]]] = defaultdict(list)
    for response, verdict in zip(responses, verdicts, strict=True):
        count = counts[response["set"], response["kind"], response["form"]]
        count[0] += verdict
        count[1] += 1
        if verdict is not (response["kind"] in RIGHT):
            misses[f"{response['kind']}: {response['form']}"].append(
                [response["set"], response["key"], response["text"][-160:]]
            )
    record = {
        "grader": options.grader, "versions": versions, "responses": len(responses),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "counts": [[*place, *count] for place, count in counts.items()],
        "misses": {form: found[:20] for form, found in misses.items()},
    }  # fmt: skip
    options.verdicts.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _run(
    name: str, responses: list[dict], source: Path | None
) -> tuple[list[bool], dict[str, float], dict[str, str]]:
    from grader_peers import load_grader, versions

    grade = load_grader(name, source)
    verdicts: dict[int, bool] = {}
    seconds: dict[str, float] = {}
    for chosen in sorted({response["set"] for response in responses}):
        places = [n for n, response in enumerate(responses) if response["set"] == chosen]
        started = time.perf_counter()
        found = grade([responses[n] for n in places])
        seconds[chosen] = time.perf_counter() - started
        verdicts.update(zip(places, found, strict=True))
    return [verdicts[n] for n in range(len(responses))], seconds, versions(name, source)


def _record(options: argparse.Namespace) -> None:
    """All graders in one file, without a word of the data: how many of each form were paid."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in options.verdicts]
    lines = [json.dumps({key: value for key, value in one.items() if key != "misses"}) for one in found]
    options.out.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


# ---------------------------------------------------------------- tables


def _show(options: argparse.Namespace) -> None:
    records = [found for path in options.verdicts for found in _found(path)]
    if options.by == "wrong":
        for record in records:
            _print_wrong(record)
        return
    print("| grader |" + "".join(f" {name} |" for name in COLUMNS.values()) + " answers/s |")
    print("| --- |" + " --- |" * (len(COLUMNS) + 1))
    for record in records:
        rate = record["responses"] / sum(record["seconds"].values())
        print(f"| {record['grader']} |" + "".join(_cells(record["counts"])) + f" {rate:.0f} |")
        if options.by == "set":
            for chosen in sorted({count[0] for count in record["counts"]}):
                print(
                    f"| - {chosen} |"
                    + "".join(_cells([c for c in record["counts"] if c[0] == chosen]))
                    + " |"
                )
    if options.by == "form":
        for record in records:
            _print_forms(record["counts"])


def _found(path: Path) -> list[dict]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, list) else [found]


def _cells(counts: list[list]) -> Iterator[str]:
    """Per kind the share that is paid, %: the mean over its forms."""
    for kind in COLUMNS:
        shares = _shares(count for count in counts if count[1] == kind)
        yield f" {sum(shares.values()) / len(shares):.2f} |" if shares else " |"


def _shares(counts: Iterable[list]) -> dict[str, float]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for _, _, form, paid, asked in counts:
        sums[form][0] += paid
        sums[form][1] += asked
    return {form: 100 * paid / asked for form, (paid, asked) in sums.items()}


def _print_forms(counts: list[list]) -> None:
    for kind in COLUMNS:
        shares = _shares(count for count in counts if count[1] == kind)
        for form, share in sorted(shares.items(), key=lambda pair: pair[1], reverse=kind not in RIGHT):
            if share < 100 if kind in RIGHT else share > 0:
                print(f"{kind:10} {share:7.2f} %  {form}")


def _print_wrong(record: dict) -> None:
    for form, found in record["misses"].items():
        print(f"\n{form}")
        for chosen, key, text in found:
            print(f"  {chosen:14} {key[:60]!r} <- {text!r}")


if __name__ == "__main__":
    main()
