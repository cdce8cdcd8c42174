"""A run from its first step to its last: evaluate, train, checkpoint, evaluate, summarise."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Collection, Mapping

import torch
from rich.console import Console

from megaent.actor.actor import Placement
from megaent.actor.lost_peer import is_of_lost_peer
from megaent.actor.parallel import close_parallel, resolve_device
from megaent.errors import ConfigError, PeerError, Stopped
from megaent.evaluation.sampled import as_numbers, evaluate
from megaent.loop.term_shares import told_shares
from megaent.loop.trainer import Trainer
from megaent.report.curves import before_after_table
from megaent.report.metrics import step_ranges
from megaent.report.progress import Progress
from megaent.run.config import TrainConfig
from megaent.run.directory import Recorder, RunDirectory, log_to
from megaent.run.environment import check_ops
from megaent.run.identity import identity_of
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
from megaent.run.stopping import Stopping
from megaent.run.summary import Numbers, Summary, complete, finish, read_summary

WORK_FOR_A_SAVE = 100  # by the clock, a checkpoint may cost a hundredth of the time

log = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    config_yaml: str,
    overrides: list[str],
    *,
    is_resumed: bool = False,
    changed: Collection[str] = (),
) -> None:
    """Run ``config`` to its last step; every rank calls it. Raises MegaentError.

    ``config_yaml`` and ``overrides`` are what the next ``resume`` reads; ``changed`` names the parts of the
    run's identity that a resumed one has other values of on purpose.
    """
    check_before_building(config)
    check_ops(config.model.dtype, resolve_device(config.device))
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
        if layout.rank == 0:
            directory.hold() if is_resumed else directory.refuse_existing()
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
            identity = identity_of(config, folder, task.train) if layout.rank == 0 else None
            identity = layout.from_rank_0(identity)
            run = Run(config, trainer, directory, identity=identity, changed=changed)
            run.restore()
            if layout.rank == 0 and is_resumed:
                directory.record(
                    config_yaml=config_yaml,
                    overrides=overrides,
                    threads=torch.get_num_threads(),
                    date=task.date,
                )
            run.run()
        finally:
            trainer.collector.close()
    finally:
        close_parallel()


class Run:
    """The steps of one process, with everything around them. Every method is a collective."""

    def __init__(
        self,
        config: TrainConfig,
        trainer: Trainer,
        directory: RunDirectory,
        *,
        identity: Mapping[str, str],
        changed: Collection[str] = (),
    ) -> None:
        self.config, self.trainer, self.directory = config, trainer, directory
        self.saver = Saver(
            trainer, directory.path, keep=config.checkpoint.keep, identity=identity, changed=changed
        )
        self.phases = Phases(trainer, directory.path)
        self.before: Numbers | None = None
        self.done = 0  # steps behind the run
        self.seconds_before = 0.0
        self.started = self.saved_at = time.perf_counter()

    @property
    def layout(self) -> Placement:
        return self.trainer.layout

    def restore(self) -> None:
        """Go back to the newest checkpoint, where there is one, and forget what was recorded after it."""
        state = self.saver.restore()
        if state is not None:
            self.done, self.before, self.seconds_before = state.step, state.before, state.seconds
        if self.layout.rank == 0:
            has_responses = self.config.run.responses_kept > 0
            for sentence in self.directory.cut_after(self.done, has_responses=has_responses):
                log.warning(sentence)
                print(f"megaent: {sentence}", file=sys.stderr, flush=True)

    def run(self) -> None:
        """Raises Stopped when a signal asks for it, PeerError when another process is lost."""
        try:
            self._run()
        except KeyboardInterrupt as end:
            raise Stopped(f"interrupted; {self._what_is_saved()}", 128 + signal.SIGINT) from end
        except SystemExit as end:
            if end.code != 128 + signal.SIGTERM:
                raise
            raise Stopped(f"terminated; {self._what_is_saved()}", 128 + signal.SIGTERM) from end
        except RuntimeError as error:
            if not is_of_lost_peer(error):
                raise
            last = str(error).strip().rpartition("\n")[2].rpartition("] ")[2]
            raise PeerError(
                f"another process of the run is not heard from ({last}; run.timeout_s="
                f"{self.config.run.timeout_s:g}): see its own messages, and the network between the nodes; "
                f"{self._what_is_saved()}"
            ) from error

    def _run(self) -> None:
        self.trainer.publish(self.done)
        self.phases.prepare()
        with Progress(self.config.steps, first_step=self.done, rank=self.layout.rank) as progress:
            self._introduce(progress)
            if self.config.evaluate.at_start and self.before is None:
                progress.say("evaluating before the first step")
                self.before = self._evaluate()
            self._train(progress)
            if self.config.evaluate.at_start:
                self._summarise(progress)

    def _what_is_saved(self) -> str:
        """For whoever left at once: what it costs, and how to go on."""
        newest, again = self.saver.newest, f"`megaent resume {self.directory.path}`"
        if newest is None:
            return f"there is no checkpoint yet, {self.done} finished steps are lost; {again} begins anew"
        if newest < self.done:
            lost = step_ranges(range(newest + 1, self.done + 1))
            return f"the newest checkpoint is of step {newest}, {lost} are lost; {again} goes on from there"
        return f"all finished steps are saved; {again} continues after step {newest}"

    def _introduce(self, progress: Progress) -> None:
        progress.say(f"{self.layout} · {self.config.run.name} · {self.directory.path}")
        if self.config.parallel.shares_optimizer(self.layout.world_size):
            progress.say("the optimizer's state is shared out over the replicas")
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

    def _train(self, progress: Progress) -> None:
        if self.done >= self.config.steps:
            progress.say(f"all {self.config.steps} steps are done")
            return
        self._require_steps_until()
        recorder = self._recorder()
        limit_s, speaks = self.config.run.stop_limit_s, self.layout.rank == 0
        self.saved_at = time.perf_counter()
        try:
            with Stopping(limit_s=limit_s, speaks=speaks) as stopping:
                while self.done < self.config.steps:
                    self._step(recorder, progress)
                    if self._is_save_due(stopping):
                        self._save(recorder)
                        self._leave_if_asked(stopping)
        finally:
            if recorder is not None:
                recorder.close()

    def _step(self, recorder: Recorder | None, progress: Progress) -> None:
        step, every = self.done + 1, self.config.evaluate.every
        self.phases.enter(step)
        report = self.trainer.step(step)
        if every and step % every == 0:
            report = dataclasses.replace(report, metrics=report.metrics | self._evaluated())
        if recorder is not None:
            recorder.write(step, report)
        progress.update(step, report.metrics)
        if told := told_shares(report.metrics):
            progress.say(told)
        self.done = step

    def _is_save_due(self, stopping: Stopping) -> bool:
        """By the number of steps, by rank 0's clock, or because some process was asked to stop."""
        every, minutes = self.config.checkpoint.every, self.config.checkpoint.minutes
        waited = time.perf_counter() - self.saved_at
        is_time = minutes > 0 and waited >= max(60 * minutes, WORK_FOR_A_SAVE * self.saver.seconds)
        told = self.layout.gather_everywhere((stopping.asked > 0, is_time))
        is_due = (every and self.done % every == 0) or self._is_last() or self._is_at_until()
        return is_due or told[0][1] or any(asked for asked, _ in told)

    def _leave_if_asked(self, stopping: Stopping) -> None:
        """Right after a checkpoint; a run with nothing left to do ends as it would have."""
        if self._is_at_until():
            raise Stopped(
                f"stopped after step {self.done} of {self.config.steps}, as run.until asks; it is saved, and "
                f"`megaent resume {self.directory.path} run.until=null` continues"
            )
        is_asked = any(self.layout.gather_everywhere(stopping.asked > 0))
        if is_asked and not (self._is_last() and not self.config.evaluate.at_start):
            raise Stopped(
                f"stopped after step {self.done} of {self.config.steps}, which is saved; "
                f"`megaent resume {self.directory.path}` continues"
            )

    def _require_steps_until(self) -> None:
        until = self.config.run.until
        if until is not None and self.done >= until:
            raise ConfigError(
                f"run.until={until} is behind: {self.done} steps are done; "
                f"`megaent resume {self.directory.path} run.until=null` continues to the end"
            )

    def _is_at_until(self) -> bool:
        return self.done == self.config.run.until

    def _is_last(self) -> bool:
        return self.done >= self.config.steps

    def _save(self, recorder: Recorder | None) -> None:
        if recorder is not None:
            recorder.flush()
        self.saver.save(self.done, before=self.before, seconds=self._seconds())
        self.saved_at = time.perf_counter()

    def _recorder(self) -> Recorder | None:
        if self.layout.rank != 0:
            return None
        return Recorder(
            self.directory,
            first_step=self.done + 1,
            vocab_size=self.trainer.actor.vocab_size,
            spell=self.trainer.collector.task.text_of,
            options=self.config.run,
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

    def _summarise(self, progress: Progress) -> None:
        """Evaluate after the last step, unless that was done; make again what is missing of its pictures."""
        steps, title = self.config.steps, self.config.run.name
        summary = read_summary(self.directory, steps=steps) if self.layout.rank == 0 else None
        if self.layout.from_rank_0(summary is not None):
            if summary is not None and complete(self.directory, summary, title=title):
                progress.say("the table and the curves were missing and are made again")
            return
        progress.say("evaluating after the last step")
        assert self.before is not None, "a run that summarises evaluated first"
        summary = Summary(self.before, self._evaluate())
        if self.layout.rank == 0:
            finish(self.directory, summary, steps=steps, seconds=self._seconds(), title=title)
            Console(highlight=False).print(before_after_table(*summary))
            progress.say(f"numbers  {self.directory.summary}\ncurves   {self.directory.curves}")
