"""A run from its first step to its last: evaluate, train, checkpoint, evaluate, summarise."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import time

import torch
from rich.console import Console

from megaent.actor.actor import Placement
from megaent.actor.parallel import close_parallel
from megaent.durable import replace_file
from megaent.evaluation.sampled import as_numbers, evaluate
from megaent.loop.trainer import Trainer
from megaent.report.curves import before_after_markdown, before_after_table, draw_curves, write_summary
from megaent.report.progress import Progress
from megaent.run.config import TrainConfig
from megaent.run.directory import Recorder, RunDirectory, log_to
from megaent.run.introduction import first_prompt, introduce
from megaent.run.launch import (
    build_actor,
    build_trainer,
    check_before_building,
    join,
    load_prompts,
    of_one_day,
    run_path,
)
from megaent.run.models import model_folder
from megaent.run.phases import Phases
from megaent.run.saving import Saver

Numbers = dict[str, float]

log = logging.getLogger(__name__)


def train(config: TrainConfig, config_yaml: str, overrides: list[str], *, is_resumed: bool = False) -> None:
    """Run ``config`` to its last step; every rank calls it. Raises MegaentError."""
    check_before_building(config)
    console = Console(quiet=os.environ.get("RANK", "0") != "0", highlight=False)
    say = console.print
    folder = model_folder(config.model, config.data, say=say, timeout_s=config.run.timeout_s)
    say("loading the tokenizer and the prompts")
    task, stream = load_prompts(config, folder)
    introduce(task, folder, console)
    say(f"{len(task.train)} prompts to train on, {len(task.evaluation)} held out; building {folder}")
    layout = join(config)
    try:
        task, stream = of_one_day(config, folder, layout, (task, stream))
        directory = RunDirectory(run_path(config, layout))
        if layout.rank == 0 and not is_resumed:
            directory.refuse_existing()
        actor = build_actor(config, folder, layout)
        trainer = build_trainer(config, folder, directory.path, actor=actor, task=task, stream=stream)
        try:
            if layout.rank == 0:
                if not is_resumed:
                    directory.create(
                        model=folder,
                        config_yaml=config_yaml,
                        overrides=overrides,
                        method="\n".join([repr(config.method), "", *config.method.words()]),
                        threads=torch.get_num_threads(),
                        prompt=first_prompt(task),
                        date=task.date,
                    )
                log_to(directory.path)
            layout.barrier()
            Run(config, trainer, directory).run()
        finally:
            trainer.collector.close()
    finally:
        close_parallel()


class Run:
    """The steps of one process, with everything around them. Every method is a collective."""

    def __init__(self, config: TrainConfig, trainer: Trainer, directory: RunDirectory) -> None:
        self.config, self.trainer, self.directory = config, trainer, directory
        self.saver = Saver(trainer, directory.path, keep=config.checkpoint.keep)
        self.phases = Phases(trainer, directory.path)
        self.before: Numbers | None = None
        self.seconds_before = 0.0
        self.started = time.perf_counter()

    @property
    def layout(self) -> Placement:
        return self.trainer.layout

    def run(self) -> None:
        done = self._restore()
        self.trainer.publish(done)
        self.phases.prepare()
        with Progress(self.config.steps, first_step=done, rank=self.layout.rank) as progress:
            self._introduce(progress)
            if self.config.evaluate.at_start and self.before is None:
                progress.say("evaluating before the first step")
                self.before = self._evaluate()
            self._train(progress, done)
            if self.config.evaluate.at_start and not self._is_summarised():
                progress.say("evaluating after the last step")
                self._finish(progress, self._evaluate())

    def _restore(self) -> int:
        """The number of steps that are behind the run, 0 for a new one."""
        state = self.saver.restore()
        done = 0 if state is None else state.step
        if state is not None:
            self.before, self.seconds_before = state.before, state.seconds
        if self.layout.rank == 0:
            self.directory.cut_after(done)
        return done

    def _introduce(self, progress: Progress) -> None:
        progress.say(f"{self.layout} · {self.config.run.name} · {self.directory.path}")
        for line in self.config.method.words():
            progress.say(line)
        for phase in self.config.method.phases:
            sampling = phase.method.sampling
            if sampling is not None and sampling.metric == "accuracy" and phase.method.rewards:
                log.warning(
                    "%s: groups are kept or replaced by the task's own grade; differences that only the "
                    "method's reward terms make do not count (method=dapo has metric=shaped)",
                    phase.name,
                )

    # ------------------------------------------------------------ steps

    def _train(self, progress: Progress, done: int) -> None:
        config = self.config
        if done >= config.steps:
            progress.say(f"all {config.steps} steps are done")
            return
        recorder = self._recorder(done)
        try:
            for step in range(done + 1, config.steps + 1):
                self.phases.enter(step)
                report = self.trainer.step(step)
                if config.evaluate.every and step % config.evaluate.every == 0:
                    report = dataclasses.replace(report, metrics=report.metrics | self._evaluated())
                if recorder is not None:
                    recorder.write(step, report)
                progress.update(step, report.metrics)
                is_due = config.checkpoint.every and step % config.checkpoint.every == 0
                if is_due or step == config.steps:
                    self.saver.save(step, before=self.before, seconds=self._seconds())
        finally:
            if recorder is not None:
                recorder.close()

    def _recorder(self, done: int) -> Recorder | None:
        if self.layout.rank != 0:
            return None
        return Recorder(
            self.directory,
            first_step=done + 1,
            vocab_size=self.trainer.actor.vocab_size,
            tensorboard=self.config.run.tensorboard,
            responses_kept=self.config.run.responses_kept,
        )

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    # ------------------------------------------------------------ evaluation

    def _evaluate(self) -> Numbers:
        """The held-out prompts, sampled with fixed seeds."""
        options, started = self.config.evaluate, time.perf_counter()
        collector = self.trainer.collector
        summaries = evaluate(
            self.trainer,
            collector.task.evaluation[: options.prompts],
            group_size=options.group_size,
            sampling=dataclasses.replace(
                collector.generation.sampling, temperature=options.temperature, top_p=options.top_p
            ),
            seed=options.seed,
        )
        return as_numbers(summaries) | {"seconds": time.perf_counter() - started}

    def _evaluated(self) -> Numbers:
        """An evaluation as metrics: ``evaluate/accuracy``, ``evaluate/n_2/accuracy`` of the split n=2."""
        numbers = self._evaluate()
        seconds = numbers.pop("seconds")
        named = {re.sub(r"[^a-z0-9_/]", "_", name.lower()): value for name, value in numbers.items()}
        return {f"evaluate/{name}": value for name, value in named.items()} | {"time/evaluate_s": seconds}

    def _is_summarised(self) -> bool:
        return bool(self.layout.from_rank_0(self.directory.summary.exists()))

    def _finish(self, progress: Progress, after: Numbers) -> None:
        assert self.before is not None, "a run that summarises evaluated first"
        if self.layout.rank != 0:
            return
        write_summary(self.directory.summary, self.before, after, seconds=self._seconds())
        replace_file(self.directory.path / "summary.md", before_after_markdown(self.before, after))
        draw_curves(self.directory.metrics, self.directory.curves, title=self.config.run.name)
        Console(highlight=False).print(before_after_table(self.before, after))
        progress.say(f"numbers  {self.directory.summary}\ncurves   {self.directory.curves}")
