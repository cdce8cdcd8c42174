"""Steps written to real trackers, a resume, and what the packages' own readers say of them, as JSON.

python tracker_worker.py FOLDER        in .venv-trackers; nothing is asked of a network
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megaent.report.trackers import TRACKERS, Trackers

_BLOCK = 32768  # of the log that wandb keeps offline, in the form of LevelDB's


def write(run: Path) -> None:
    config = {"optim": {"lr": 1e-3}, "method": {"grpo": {}}}
    first = Trackers(list(TRACKERS), run, config)
    for step in (1, 2):
        first.write(step, {"reward/mean": step / 4, "version": step})
    first.close()
    resumed = Trackers(list(TRACKERS), run, config)
    resumed.write(3, {"reward/mean": 0.75, "version": 3})
    resumed.close()


def of_wandb(run: Path) -> dict[str, Any]:
    from wandb.proto import wandb_internal_pb2 as messages

    steps, ids = {}, set()
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for data in records(file.read_bytes()):
            record = messages.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            if record.WhichOneof("record_type") == "history":
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                steps[record.history.step.num] = json.loads(row["reward/mean"])
    return {"steps": steps, "runs": sorted(ids)}


def records(data: bytes) -> Iterator[bytes]:
    """Behind the file's seven bytes of head: parts of (checksum, length, kind), put together."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if _BLOCK - place % _BLOCK < 7:
            place += _BLOCK - place % _BLOCK
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # all of a record, or its last part
            yield whole
            whole = b""


def of_mlflow(run: Path) -> dict[str, Any]:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("megaent")
    found = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(found[0].info.run_id, "reward/mean")
    return {
        "steps": {metric.step: metric.value for metric in history},
        "runs": [one.info.run_name for one in found],
        "params": found[0].data.params,
    }


def of_trackio(run: Path) -> dict[str, Any]:
    from trackio.sqlite_storage import SQLiteStorage

    [name] = SQLiteStorage.get_runs("megaent")
    rows = SQLiteStorage.get_logs("megaent", name)
    return {"steps": {row["step"]: row["reward/mean"] for row in rows}, "runs": [name]}


def of_prometheus(run: Path) -> dict[str, Any]:
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families((run / "metrics.prom").read_text())
    samples = [sample for family in families for sample in family.samples]
    return {
        "values": {sample.name: sample.value for sample in samples},
        "runs": sorted({sample.labels["run"] for sample in samples}),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    run = folder / "first"
    run.mkdir()
    os.environ |= {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": (folder / "mlruns").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true",
    }  # fmt: skip
    write(run)
    readers = {"wandb": of_wandb, "mlflow": of_mlflow, "trackio": of_trackio, "prometheus": of_prometheus}
    (folder / "read.json").write_text(json.dumps({name: read(run) for name, read in readers.items()}))


if __name__ == "__main__":
    main()
