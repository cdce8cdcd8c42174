"""``megaent bench ops`` measures, ``megaent bench table`` shows what was measured."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from megaent.bench import record, table
from megaent.bench.case import PASSES, Case
from megaent.bench.ours import contenders
from megaent.bench.paths import PATHS
from megaent.bench.problems import DTYPES, make_problem
from megaent.bench.shapes import find_shape
from megaent.errors import ConfigError, MissingDependency

RESULTS = record.ROOT / "benchmarks" / "results"
DOCUMENT = record.ROOT / "docs" / "kernels.md"

# What a device is asked without further words: shapes, rows and each path's types.
_DEFAULTS = {
    "cpu": {
        "shapes": "qwen2.5-1.5b",
        "rows": 1024,
        "logits": "fp32,bf16",
        "linear": "fp32",
        "kl": "fp32,bf16",
        "extras": "fp32,bf16",
    },
    "cuda": {
        "shapes": "qwen2.5-1.5b,qwen2.5-7b,qwen2.5-7b/8,qwen2.5-32b",
        "rows": 16384,
        "logits": "bf16,fp32",
        "linear": "bf16",
        "kl": "bf16,fp32",
        "extras": "bf16,fp32",
    },
}
_PATHS = "logits,linear"  # what every training step passes through
_QUICK = {"shapes": "tiny", "rows": 64, "rounds": 2}


def bench(words: Sequence[str]) -> int:
    """The exit code. Raises MegaentError for words it does not know and for kernels that are wrong."""
    options = _parser().parse_args(words)
    if options.verb == "table":
        return _table(options)
    _complete(options)
    report = record.describe(options.run_on, " ".join(["megaent", "bench", *words])) | {
        "rounds": options.rounds,
        "cases": [],
    }
    for case in _cases(options):
        report["cases"].append(case)
        print(f"\n{table.text(case)}", flush=True)
        _write(report, options)
    return 0


def _cases(options: argparse.Namespace):
    """Every path, shape and type; both passes of one problem, so that it is made and checked once."""
    for path in options.paths.split(","):
        for name in options.shapes.split(","):
            shape = find_shape(name)
            for dtype in (options.dtypes or _DEFAULTS[options.device][path]).split(","):
                problem = make_problem(PATHS[path], shape, options.rows, dtype, options.run_on)
                entrants = contenders(PATHS[path], options.run_on, DTYPES[dtype], options.workspace_bytes)
                case = Case(problem, entrants, options.run_on)
                case.check()
                what = {"path": path, "shape": name, "dtype": dtype, "rows": options.rows}
                what |= {"vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size}
                for one_pass in PASSES:
                    yield what | case.run(one_pass, options.rounds)


def _write(report: dict[str, Any], options: argparse.Namespace) -> None:
    """After every case, so that a run that is stopped leaves what it has."""
    if options.out is None:
        return
    options.out.mkdir(parents=True, exist_ok=True)
    part = "" if options.paths == _PATHS else "_" + options.paths.replace(",", "_")
    path = options.out / f"ops_{options.device}{part}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")


def _table(options: argparse.Namespace) -> int:
    paths = options.reports or sorted(RESULTS.glob("*/ops_*.json"))
    if not paths:
        raise ConfigError(
            f"there are no reports under {RESULTS}; name some, or run `megaent bench ops --out DIR`"
        )
    made = table.markdown(table.read_reports(paths))
    if options.into is None:
        print(made, end="")
    else:
        table.put_into(options.into, made)
    return 0


# ---------------------------------------------------------------- words


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; `{self.prog} --help` lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="megaent bench", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    ops = verbs.add_parser(
        "ops", help="the pass over the vocabulary, beside torch and other people's kernels"
    )
    ops.add_argument("--device", choices=("cpu", "cuda"), required=True)
    ops.add_argument("--paths", default=_PATHS, help=f"some of {', '.join(PATHS)} ({_PATHS})")
    ops.add_argument("--shapes", help="models by name, e.g. qwen2.5-7b; /8 for one of eight ranks")
    ops.add_argument("--rows", type=int, help="tokens, N")
    ops.add_argument("--dtypes", help="fp32, bf16, fp16")
    ops.add_argument("--rounds", type=int, help="how often each is run; the median counts (5)")
    ops.add_argument("--threads", type=int, help="torch's threads on the CPU; otherwise torch's choice")
    ops.add_argument("--workspace-bytes", type=int, help="bound of a tile's logits on the linear path")
    ops.add_argument(
        "--out",
        type=Path,
        help="folder of the raw numbers, ops_DEVICE.json, or ops_DEVICE_PATHS.json where --paths is given",
    )
    ops.add_argument("--quick", action="store_true", help="a tiny size, two rounds: to see that it works")
    ops.add_argument("--rehearse", action="store_true", help="--device cuda's program on the CPU, tiny")
    shown = verbs.add_parser("table", help="the table of docs/kernels.md from raw numbers")
    shown.add_argument(
        "reports", nargs="*", type=Path, help="JSON files; all of benchmarks/results otherwise"
    )
    shown.add_argument("--into", type=Path, help="the document whose table is replaced")
    return parser


def _complete(options: argparse.Namespace) -> None:
    """Fills in what was not said, and refuses what cannot be."""
    is_tiny = options.quick or options.rehearse
    for name, value in ({"rounds": 5} | _DEFAULTS[options.device] | (_QUICK if is_tiny else {})).items():
        if name in ("shapes", "rows", "rounds") and getattr(options, name) is None:
            setattr(options, name, value)
    options.run_on = "cpu" if options.rehearse else options.device
    _refuse(options)
    if options.run_on == "cuda" and not torch.cuda.is_available():
        raise MissingDependency(
            f"bench --device cuda needs a CUDA device that torch {torch.__version__} can see; "
            "--rehearse runs the same program on the CPU"
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def _refuse(options: argparse.Namespace) -> None:
    for name in ("rows", "rounds", "threads", "workspace_bytes"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    for name, known in (("paths", tuple(PATHS)), ("dtypes", tuple(DTYPES))):
        for word in (getattr(options, name) or known[0]).split(","):
            if word not in known:
                raise ConfigError(f"--{name} takes {', '.join(known)}, got {word!r}")
    for word in options.shapes.split(","):
        find_shape(word)
