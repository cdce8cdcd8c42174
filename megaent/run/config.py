"""The root of a run's configuration, and what belongs to no family: run, checkpoint and evaluate.

Everything that can be refused is refused by these dataclasses and those of the families, before a model is
built; ``launch`` hands each part what is its own, and below it no function takes a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from megaent.actor.options import OptimOptions, ParallelOptions
from megaent.options import MISSING, require, require_fraction, require_positive
from megaent.report.trackers import check_trackers
from megaent.run.command_record import MOST_THREADS


@dataclass
class RunOptions:
    dir: Optional[str] = None  # noqa: UP045 - OmegaConf reads Optional; default runs/<name>-<time>
    name: str = "train"
    responses_kept: int = 4  # responses of every step written to responses.md
    tensorboard: bool = True
    trackers: list[str] = field(default_factory=list)  # wandb | mlflow | trackio | prometheus
    tables_mb: float = 64.0  # that the per-group and per-token tables may grow to; 0 writes no tables
    table_responses: int = 8  # responses of every step kept token by token in the tables
    threads: int = 0  # torch threads a process; 0 keeps OMP_NUM_THREADS or torch's choice
    until: Optional[int] = None  # noqa: UP045 - leave after this step, saved; resume goes on
    timeout_s: float = 1800.0  # limit of every wait on another process
    stop_limit_s: float = 600.0  # how long a run that is asked to stop may take for the step under way
    canary_every: int = 10  # steps between checks of the ops against the reference backend; 0 never

    def __post_init__(self) -> None:
        require(
            0 <= self.threads <= MOST_THREADS,
            f"run.threads must be 0 to {MOST_THREADS}, got {self.threads}",
        )
        check_trackers(self.trackers)
        require_positive("run", timeout_s=self.timeout_s, stop_limit_s=self.stop_limit_s)
        require(self.tables_mb >= 0, f"run.tables_mb must be 0 or more, got {self.tables_mb}")
        require(
            self.table_responses >= 0, f"run.table_responses must be 0 or more, got {self.table_responses}"
        )
        require(self.until is None or self.until >= 1, f"run.until must be 1 or more, got {self.until}")
        require(self.canary_every >= 0, f"run.canary_every must be 0 or more, got {self.canary_every}")


@dataclass
class CheckpointOptions:
    every: int = 0  # steps between checkpoints, beside those by the clock; the last step is always saved
    minutes: float = (
        30.0  # between checkpoints, or 100 times what the last one took if that is longer; 0 never
    )
    keep: int = 2  # newest checkpoints kept; at least 2, so that a damaged one has a predecessor

    def __post_init__(self) -> None:
        require(self.every >= 0, f"checkpoint.every must be 0 or more, got {self.every}")
        require(self.minutes >= 0, f"checkpoint.minutes must be 0 or more, got {self.minutes}")
        require(self.keep >= 2, f"checkpoint.keep must be 2 or more, got {self.keep}")


@dataclass
class EvaluateOptions:
    every: int = 0  # steps between evaluations; 0 evaluates only where an experiment asks
    prompts: int = 256
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 12345
    at_start: bool = False  # also before the first step, and after the last

    def __post_init__(self) -> None:
        require(self.every >= 0, f"evaluate.every must be 0 or more, got {self.every}")
        require_positive(
            "evaluate", prompts=self.prompts, group_size=self.group_size, temperature=self.temperature
        )
        require_fraction("evaluate", top_p=self.top_p)


@dataclass
class TrainConfig:
    """The root. ``method`` is one node per chosen method, and once all is checked their ``Schedule``."""

    seed: int = 0
    steps: int = 100
    device: str = "auto"  # auto | cpu | cuda
    run: RunOptions = field(default_factory=RunOptions)
    model: Any = MISSING
    data: Any = MISSING
    rollout: Any = MISSING
    method: Any = MISSING
    optim: OptimOptions = field(default_factory=OptimOptions)
    precision: Any = MISSING
    parallel: ParallelOptions = field(default_factory=ParallelOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps must be 0 or more, got {self.steps}")
        until = self.run.until
        require(
            until is None or until < self.steps,
            f"run.until={until} has no effect: the run ends after steps={self.steps}; leave it out",
        )
        require(
            self.device in ("auto", "cpu", "cuda"),
            f"device must be auto, cpu or cuda, got {self.device!r}",
        )
