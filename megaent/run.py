"""A run from its first step to its last: evaluate, train, checkpoint, evaluate, summarise."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch
from rich.console import Console

from megaent.actor.parallel import Layout, close_parallel
from megaent.actor.state import load_state, save_state
from megaent.checkpoint import CheckpointStore
from megaent.config import TrainConfig
from megaent.errors import CheckpointError
from megaent.evaluate import EvaluationSummary
from megaent.launch import build_trainer, check_before_building, join, model_folder, run_path
from megaent.progress import Progress
from megaent.report import before_after_markdown, before_after_table, draw_curves, write_summary
from megaent.metrics import replace_file
from megaent.run_directory import Recorder, RunDirectory, log_to
from megaent.trainer import Trainer

Numbers = dict[str, float]


def train(config: TrainConfig, config_yaml: str, overrides: list[str], *, is_resumed: bool = False) -> None:
    """Run ``config`` to its last step; every rank calls it. Raises MegaentError."""
    check_before_building(config)
    say = Console(quiet=_rank() != 0, highlight=False).print
    folder = model_folder(config, say)
    layout = join(config)
    try:
        trainer = build_trainer(config, folder, layout)
        try:
            directory = RunDirectory(run_path(config, layout))
            if layout.rank == 0:
                if not is_resumed:
                    directory.create(
                        config_yaml=config_yaml,
                        overrides=overrides,
                        method=repr(trainer.method),
                        threads=torch.get_num_threads(),
                    )
                log_to(directory.path)
            layout.barrier()
            Run(config, trainer, directory).run()
        finally:
            for part in (trainer.engine, trainer.reward):
                if part is not None:
                    part.close()
    finally:
        close_parallel()


def _rank() -> int:
    import os

    return int(os.environ.get("RANK", "0"))


class Run:
    """The steps of one process, with everything around them."""

    def __init__(self, config: TrainConfig, trainer: Trainer, directory: RunDirectory) -> None:
        self.config, self.trainer, self.directory = config, trainer, directory
        self.store = CheckpointStore(directory.checkpoints, keep=config.checkpoint.keep)
        self.before: Numbers | None = None
        self.seconds_before = 0.0
        self.started = time.perf_counter()

    @property
    def layout(self) -> Layout:
        return self.trainer.layout

    def run(self) -> None:
        done = self.restore()
        self.trainer.publish(done)
        config = self.config
        with Progress(config.steps, first_step=done, rank=self.layout.rank) as progress:
            progress.say(f"{self.layout} · {config.run.name} · {self.directory.path}")
            progress.say(f"method {self.trainer.method!r}")
            if config.evaluate.at_start and self.before is None:
                progress.say("evaluating before the first step")
                self.before = self.evaluate()
            self._train(progress, done)
            if config.evaluate.at_start and not self._is_summarised():
                progress.say("evaluating after the last step")
                self._finish(progress, self.evaluate())

    def _train(self, progress: Progress, done: int) -> None:
        config = self.config
        if done >= config.steps:
            progress.say(f"all {config.steps} steps are done")
            return
        recorder = self._recorder(done)
        try:
            for step in range(done + 1, config.steps + 1):
                report = self.trainer.step(step)
                if config.evaluate.every and step % config.evaluate.every == 0:
                    report = dataclasses.replace(report, metrics=report.metrics | self._evaluated())
                if recorder is not None:
                    recorder.write(step, report)
                progress.update(step, report.metrics)
                is_due = config.checkpoint.every and step % config.checkpoint.every == 0
                if is_due or step == config.steps:
                    self.save(step)
        finally:
            if recorder is not None:
                recorder.close()

    def _recorder(self, done: int) -> Recorder | None:
        if self.layout.rank != 0:
            return None
        return Recorder(
            self.directory,
            first_step=done + 1,
            vocab_size=self.trainer.vocab_size,
            tensorboard=self.config.run.tensorboard,
            responses_kept=self.config.run.responses_kept,
        )

    # ------------------------------------------------------------ checkpoints

    def save(self, step: int) -> None:
        """A checkpoint of ``step``; a collective. Either it is whole or it is not there."""
        folder = Path(self.layout.from_rank_0(str(self.store.begin(step)) if self.layout.rank == 0 else None))
        save_state(self.trainer.actor, folder / "model")
        self.layout.barrier()
        mine = self.store.digest(folder, rank=self.layout.rank, world_size=self.layout.world_size)
        digests = self.layout.gather_to_rank_0(mine)
        if self.layout.rank == 0:
            everything = {name: digest for part in digests for name, digest in part.items()}
            self.store.commit(step, everything, self._state(step))
        self.layout.barrier()

    def _state(self, step: int) -> dict[str, object]:
        return {
            "step": step,
            "optimizer_steps": self.trainer.actor.optimizer_steps,
            "layout": str(self.layout),
            "architecture": dataclasses.asdict(self.trainer.actor.architecture),
            "before": self.before,
            "seconds": self.seconds_before + time.perf_counter() - self.started,
        }

    def restore(self) -> int:
        """Load the newest checkpoint that verifies; the number of steps it has behind it, or 0."""
        paths = self.layout.from_rank_0(self.store.candidates() if self.layout.rank == 0 else None)
        for path in paths:
            problems = self.layout.gather_everywhere(
                self.store.verify(path, rank=self.layout.rank, world_size=self.layout.world_size)
            )
            found = [problem for part in problems for problem in part]
            if not found:
                return self._load(path)
            if self.layout.rank == 0:
                Console(stderr=True, highlight=False).print(f"checkpoint {path} is refused: {found[0]}")
        if paths:
            raise CheckpointError(
                f"none of the {len(paths)} checkpoints in {self.directory.checkpoints} is whole; move them away "
                "to begin again from the first step"
            )
        if self.layout.rank == 0:
            self.directory.cut_after(0)
        return 0

    def _load(self, path: Path) -> int:
        state = self.store.read_state(path)
        actor = self.trainer.actor
        if state["architecture"] != dataclasses.asdict(actor.architecture):
            raise CheckpointError(
                f"{path} is of another model: {state['architecture']}, this one is "
                f"{dataclasses.asdict(actor.architecture)}"
            )
        load_state(actor, path / "model")
        actor.optimizer_steps = int(state["optimizer_steps"])
        self.before = state["before"]
        self.seconds_before = float(state["seconds"])
        if self.layout.rank == 0:
            self.directory.cut_after(int(state["step"]))
        return int(state["step"])

    # ------------------------------------------------------------ evaluation

    def evaluate(self) -> Numbers:
        """The held-out prompts, sampled with fixed seeds; a collective."""
        options, started = self.config.evaluate, time.perf_counter()
        sampling = dataclasses.replace(
            self.trainer.sampling, temperature=options.temperature, top_p=options.top_p
        )
        summaries = self.trainer.evaluate(
            self.trainer.task.evaluation[: options.prompts],
            group_size=options.group_size,
            sampling=sampling,
            seed=options.seed,
        )
        numbers = _numbers(summaries["all"])
        for split, summary in summaries.items():
            if split != "all":
                numbers |= {f"{split}/{name}": value for name, value in _numbers(summary).items()}
        return numbers | {"seconds": time.perf_counter() - started}

    def _evaluated(self) -> Numbers:
        numbers = self.evaluate()
        seconds = numbers.pop("seconds")
        return {f"evaluate/{name}": value for name, value in numbers.items()} | {"time/evaluate_s": seconds}

    def _is_summarised(self) -> bool:
        return bool(self.layout.from_rank_0(self.directory.summary.exists()))

    def _finish(self, progress: Progress, after: Numbers) -> None:
        assert self.before is not None, "a run that summarises evaluated first"
        if self.layout.rank != 0:
            return
        seconds = self.seconds_before + time.perf_counter() - self.started
        write_summary(self.directory.summary, self.before, after, seconds=seconds)
        replace_file(self.directory.path / "summary.md", before_after_markdown(self.before, after))
        draw_curves(self.directory.metrics, self.directory.curves, title=self.config.run.name)
        Console(highlight=False).print(before_after_table(self.before, after))
        progress.say(f"numbers  {self.directory.summary}\ncurves   {self.directory.curves}")


def _numbers(summary: EvaluationSummary) -> Numbers:
    return {name: float(value) for name, value in dataclasses.asdict(summary).items() if value is not None}
