"""How far the actor is from plain torch in every layout, under both pairs of Python and megatron-core.

    .venv/bin/python benchmarks/parity.py    measures under .venv and .venv-other, fills docs/megatron.md

./scripts/setup and ./scripts/setup --other make the two environments. Minutes on two cores.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.layouts import FP32, FP64, LAYOUTS, differences, job, launch, reference  # noqa: E402
from support.tiny_hf import save_tiny  # noqa: E402

DOCUMENT = ROOT / "docs" / "megatron.md"
BEGIN, END = "<!-- parity: written by benchmarks/parity.py -->", "<!-- end of parity -->"
PRECISIONS = {"fp64": FP64, "fp32": FP32}


def measure(folder: Path) -> None:
    """Train in every layout with this interpreter; the results and a summary go into ``folder``."""
    model = save_tiny(folder / "model", family="qwen2", tie=False)
    truth = {name: reference(model, precision) for name, precision in PRECISIONS.items()}
    for size in sorted({size for size, _ in LAYOUTS.values()}):
        jobs = [
            job(layout, precision, model, result(folder, layout, name))
            for layout, (world, _) in LAYOUTS.items()
            if world == size
            for name, precision in PRECISIONS.items()
        ]
        launch(jobs, size, folder)
    found = {
        layout: {name: differences(load(folder, layout, name), truth[name]) for name in PRECISIONS}
        for layout in LAYOUTS
    }
    versions = {name: importlib.metadata.version(name) for name in ("megatron-core", "torch")}
    versions["Python"] = platform.python_version()
    (folder / "summary.json").write_text(json.dumps({"versions": versions, "found": found}))


def result(folder: Path, layout: str, precision: str) -> Path:
    return folder / f"{layout}-{precision}.pt"


def load(folder: Path, layout: str, precision: str) -> dict:
    return torch.load(result(folder, layout, precision), weights_only=True)


def between(one: Path, other: Path, layout: str) -> float:
    """The largest difference of a weight or a gradient, in either precision, between two measurements."""
    return max(
        float((load(one, layout, name)[kind][key] - value).abs().max())
        for name in PRECISIONS
        for kind in ("gradients", "weights")
        for key, value in load(other, layout, name)[kind].items()
    )


def table(folders: list[Path]) -> str:
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    kinds = (("fp64", "gradient"), ("fp64", "weight"), ("fp32", "weight"))
    names = [summary["versions"]["megatron-core"] for summary in summaries]
    heads = [f"{precision} {kind}, {name}" for precision, kind in kinds for name in names]
    lines = ["; ".join(f"{k} {v}" for k, v in summary["versions"].items()) for summary in summaries]
    rows = [f"Measured on {platform.machine()}, gloo: {' and '.join(lines)}.", ""]
    rows += [
        "| layout | " + " | ".join([*heads, "between the two"]) + " |",
        "| --- " * (len(heads) + 2) + "|",
    ]
    for layout in LAYOUTS:
        cells = [f"{s['found'][layout][p][kind]:.1e}" for p, kind in kinds for s in summaries]
        rows.append("| " + " | ".join([layout, *cells, f"{between(*folders, layout):.1e}"]) + " |")
    return "\n".join(rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folders = []
        for venv in (".venv-other", ".venv"):
            folder = Path(made) / venv.removeprefix(".")
            folder.mkdir()
            command = [ROOT / venv / "bin" / "python", __file__, "--measure", folder]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            folders.append(folder)
        before, _, rest = DOCUMENT.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table(folders)}\n\n{END}{after}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
        os._exit(0)
    main()
