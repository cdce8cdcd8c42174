"""A run's numbers for services that people look at: Weights & Biases, MLflow, trackio, Prometheus.

``metrics.jsonl`` stays the record. A tracker that cannot begin is an error at the start; one that fails
later is told once and left out, because the run is worth more. What a service needs to go on after ``resume``
is the run's identity, a hash of its directory, so nothing has to be remembered.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from megaent.errors import ConfigError, MissingDependency
from megaent.options import require

PROJECT = "megaent"
log = logging.getLogger(__name__)


class Tracker(Protocol):
    def write(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class WandbTracker:
    """Weights & Biases, as its own variables say: WANDB_MODE=offline keeps the files in the run's directory.

    After a resume, steps that it has are not written a second time.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        wandb = _package("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), id=identity(run), name=run.name, dir=str(run),
            config=dict(config), resume="allow",
        )  # fmt: skip

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class MlflowTracker:
    """MLflow, at MLFLOW_TRACKING_URI. The experiment is MLFLOW_EXPERIMENT_NAME, or ``megaent``."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        mlflow = _package("mlflow")
        self._metric = _package("mlflow.entities").Metric
        self._client = mlflow.MlflowClient()
        experiment = self._experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        self._id = self._begun(experiment, run) or self._begin(experiment, run, config)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        rows = [self._metric(name, float(value), now, step) for name, value in sorted(metrics.items())]
        self._client.log_batch(self._id, metrics=rows)

    def close(self) -> None:
        self._client.set_terminated(self._id)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found is not None else self._client.create_experiment(name)

    def _begun(self, experiment: str, run: Path) -> str | None:
        """The service's run of this directory, where it was begun before."""
        found = self._client.search_runs([experiment], f"tags.`megaent.identity` = '{identity(run)}'")
        return found[0].info.run_id if found else None

    def _begin(self, experiment: str, run: Path, config: Mapping[str, Any]) -> str:
        tags = {"megaent.identity": identity(run), "megaent.dir": str(run)}
        begun = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        for name, value in flat(config):
            self._client.log_param(begun, name, str(value)[:500])
        return begun


class TrackioTracker:
    """trackio, in the folder that TRACKIO_DIR names or its own."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        trackio = _package("trackio")
        name = f"{run.name}-{identity(run)}"
        self._run = trackio.init(project=PROJECT, name=name, config=dict(config), resume="allow")
        self._finish = trackio.finish

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._finish()


class PrometheusTracker:
    """``metrics.prom`` in the run's directory, replaced after every step, for a node exporter to collect.

    A gauge a metric: ``reward/mean`` is ``megaent_reward_mean{run="…"}``.
    """

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self._client = _package("prometheus_client")
        self._path, self._name = run / "metrics.prom", run.name

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        registry = self._client.CollectorRegistry()
        for name, value in sorted({**metrics, "step": step}.items()):
            gauge = self._client.Gauge("megaent_" + name.replace("/", "_"), name, ["run"], registry=registry)
            gauge.labels(run=self._name).set(value)
        self._client.write_to_textfile(str(self._path), registry)

    def close(self) -> None: ...


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
    "prometheus": PrometheusTracker,
}
_PACKAGES = {"prometheus": "prometheus_client"}


def check_trackers(names: Sequence[str]) -> None:
    """What can be known before a run begins. Raises ConfigError or MissingDependency."""
    for name in names:
        require(name in TRACKERS, f"run.trackers has {name!r}; known are {', '.join(TRACKERS)}")
        if find_spec(_PACKAGES.get(name, name)) is None:
            raise _missing(_PACKAGES.get(name, name))
    require(len(set(names)) == len(names), f"run.trackers names one twice: {', '.join(names)}")
    require(
        "mlflow" not in names or bool(os.environ.get("MLFLOW_TRACKING_URI")),
        "run.trackers=[mlflow] needs MLFLOW_TRACKING_URI, the address of its server",
    )


class Trackers:
    """Those that were asked for; one that fails is told once, and asked nothing more."""

    def __init__(self, names: Sequence[str], run: Path, config: Mapping[str, Any]) -> None:
        """Raises ConfigError or MissingDependency for one that cannot begin; those before it are closed."""
        self._open: dict[str, Tracker] = {}
        for name in names:
            try:
                self._open[name] = TRACKERS[name](run, config)
            except Exception as error:
                self.close()
                if isinstance(error, ConfigError | MissingDependency):
                    raise
                cause = " ".join(str(error).split())
                raise ConfigError(f"run.trackers: {name} cannot begin: {cause}") from error

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self._each(
            lambda tracker: tracker.write(step, metrics), f"step {step} and what follows are not in it"
        )

    def close(self) -> None:
        self._each(lambda tracker: tracker.close(), "its end may be missing")
        self._open.clear()

    def _each(self, do: Callable[[Tracker], None], lost: str) -> None:
        for name, tracker in list(self._open.items()):
            try:
                do(tracker)
            except Exception as error:  # whatever a service's package raises
                del self._open[name]
                log.warning("the tracker %s failed: %s; %s, and the run goes on", name, error, lost)


def identity(run: Path) -> str:
    """Twelve hexadecimal digits that this host and directory alone have."""
    return hashlib.sha256(f"{socket.gethostname()}:{run.resolve()}".encode()).hexdigest()[:12]


def flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``{"optim": {"lr": 1}}`` as ``[("optim.lr", 1)]``."""
    pairs: list[tuple[str, Any]] = []
    for name, value in config.items():
        key = f"{prefix}{name}"
        pairs += flat(value, f"{key}.") if isinstance(value, Mapping) else [(key, value)]
    return pairs


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _missing(name) from error


def _missing(package: str) -> MissingDependency:
    name = package.partition(".")[0].replace("_", "-")
    return MissingDependency(
        f"{name} is not installed; run `pip install {name}`, or leave it out of run.trackers"
    )
