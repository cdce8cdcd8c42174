#!/usr/bin/env bash
# datasets 5.2.0 with pyarrow 26.0.1, reading JSON lines
#
# Behaviour: the types of a file's columns are settled by its first block of some megabytes. A column of answers that
#   mixes numbers and text within it is taken as it is. The same mixture further on goes three ways: a number under a
#   column of text becomes text, text under a column of numbers is an error, and so is a field that is new.
# Seen on 2026-11-28:
#   text after numbers: {'answer': '1/2'} in the first block, ArrowInvalid after it
#   a number after text: {'answer': 3} in the first block, {'answer': '3'} after it
#   a new field: {'answer': '3', 'level': 5} in the first block, CastError after it
# Hurts: whoever tries a loader on the first thousand rows of a data set and trains on all of it, or shuffles a file
#   that could be read.
# One would guess otherwise: a sample with the mixture in it loads, so the mixture seems to be supported.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 datasets==5.2.0 pyarrow==26.0.1
HF_HUB_OFFLINE=1 "$python" - <<'PY'
import json
import pathlib
import sys

import datasets

datasets.disable_progress_bars()
datasets.logging.set_verbosity(datasets.logging.CRITICAL)
PADDING = 120_000  # rows of about 110 bytes: more than a block


def load(name, first, last, count):
    """The last row's answer as it was read, or why it could not be."""
    path = pathlib.Path(f"{name}.jsonl")
    rows = [{"question": "q" * 80, **first}] * count + [{"question": "q", **last}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        read = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir="cache")
    except datasets.exceptions.DatasetGenerationError as error:
        return type(error.__cause__).__name__
    return repr({key: value for key, value in read[-1].items() if key != "question"})


CASES = {
    "text after numbers": ({"answer": 7}, {"answer": "1/2"}),
    "a number after text": ({"answer": "7"}, {"answer": 3}),
    "a new field": ({"answer": "7"}, {"answer": "3", "level": 5}),
}
seen = {}
for name, (first, last) in CASES.items():
    seen[name] = [load(f"{len(seen)}-{count}", first, last, count) for count in (1, PADDING)]
    print(f"{name}: {seen[name][0]} in the first block, {seen[name][1]} after it")
expected = {
    "text after numbers": ["{'answer': '1/2'}", "ArrowInvalid"],
    "a number after text": ["{'answer': 3}", "{'answer': '3'}"],
    "a new field": ["{'answer': '3', 'level': 5}", "CastError"],
}
sys.exit(0 if seen == expected else "no longer so")
PY
