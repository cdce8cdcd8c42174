"""``megaent plan``: memory and time of a step before a machine is rented, and the layout to rent it for."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from megaent.errors import ConfigError
from megaent.plan.answer import as_json, as_text
from megaent.plan.candidates import Found
from megaent.plan.constants import Constants
from megaent.plan.question import read_question
from megaent.plan.rows import predict, read_rows
from megaent.plan.search import Search
from megaent.plan.series import series, series_text
from megaent.plan.start import overrides, why_not_started

USAGE = """usage: megaent plan model=NAME|FOLDER cluster=NAME|FILE nodes=N [key=value …] [--json] [--check]

  model=qwen2_5_32b        a named shape, a Hugging Face folder, or any name with hidden= layers= heads=
                           kv_heads= ffn= vocab=
  cluster=h100             a100_40 a100_80 h100 h200 b200 gb200, or a .yaml file with the same fields
  nodes=16  gpus=128       one of the two

  a step of reinforcement learning (workload=rl)
  prompts= group_size= prompt_tokens= response_tokens= max_new_tokens= length_spread= minibatches=
  method= staleness= engine_tp= engine_gpus= microbatch_tokens=
  a step of training alone (workload=train)
  seq_len= global_batch= micro_batch= precision=bf16|fp8|fp16|bf16-pure lora=true stack= head= attention=

  tp= pp= vpp= cp= ep= recompute=none|selective|full sharding=replicated|optimizer|full
  sequence_parallel=true|false
                           what is not given is searched; a table's own words are understood: gpu= n_gpus=
                           workload=rl_step recompute=unknown precision=fp8-rowwise, and for a step of
                           reinforcement learning seq_len= global_batch= micro_batch=
  steps= price= top=       what is counted and shown
  measured=FILE.json       a report of `megaent bench ops --device cuda` in place of our shares of the peak
  constants.NAME=VALUE     a measured efficiency in place of ours; --json lists them with their sources

  --json   everything as JSON      --check   composes the configuration that starts the plan

megaent plan … --over KEY=A,B,C    a line for each value: nodes, staleness, response_tokens, …
megaent plan --rows FILE.csv      measurements with the columns of benchmarks/plan_rows.csv, planned beside
"""


def plan(words: Sequence[str]) -> int:
    """The exit code. Raises ConfigError for what is not understood, and where nothing fits."""
    if not words or "--help" in words or "-h" in words:
        print(USAGE, end="")
        return 0
    if words[0] == "--rows":
        return _rows(words[1:])
    if "--over" in words:
        return _over(list(words))
    flags = [word for word in words if word.startswith("-")]
    unknown = [word for word in flags if word not in ("--json", "--check")]
    if unknown:
        raise ConfigError(f"plan takes --json and --check, got {unknown[0]}")
    search = Search(read_question([word for word in words if word not in flags]))
    found = search.run()
    if "--check" in flags:
        _check(search, found)
    if "--json" in flags:
        print(json.dumps(as_json(search, found), indent=1))
    else:
        print(as_text(search, found), end="")
        if "--check" in flags:
            print("the configuration composes")
    return 0


def _over(words: list[str]) -> int:
    place = words.index("--over")
    over = words[place + 1] if place + 1 < len(words) else ""
    rest = words[:place] + words[place + 2 :]
    plain = [word for word in rest if word != "--json"]
    lines = series(plain, over)
    if "--json" in rest:
        print(json.dumps([asdict(line) for line in lines], indent=1))
    else:
        print(series_text(over.partition("=")[0], lines), end="")
    return 0


def _rows(words: Sequence[str]) -> int:
    """Planned values beside measured ones as CSV; why not where there is none."""
    if len(words) != 1:
        raise ConfigError("plan --rows takes one CSV file")
    rows = read_rows(Path(words[0]))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["model", "gpu", "n_gpus", "metric", "unit", "value", "planned", "planned_over_value"])
    for row in rows:
        writer.writerow(
            [row[name] for name in ("model", "gpu", "n_gpus", "metric", "unit", "value")] + _planned(row)
        )
    return 0


def _planned(row: dict[str, str]) -> list[str]:
    try:
        found = predict(row, Constants())
        return [f"{found.value:.5g}", f"{found.value / float(row['value']):.3f}"]
    except ConfigError as error:
        return ["", str(error)]


def _check(search: Search, found: Found) -> None:
    """Raises ConfigError where ``megaent train`` would refuse the plan's words."""
    best = found.candidates[0]
    refusal = why_not_started(search, best)
    if refusal:
        raise ConfigError(f"--check: {refusal}")
    from megaent.config.composition import compose_config

    compose_config([*overrides(search, best), "data.path=questions.jsonl"])
