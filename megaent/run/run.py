"""A run from its first step to its last: evaluate, train, checkpoint, evaluate, summarise."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.distributed.checkpoint.api import CheckpointException  # noqa: TID251 - an error, no process group

from megaent.actor.hf_folder import write_weights
from megaent.actor.megatron_actor import MegatronActor
from megaent.actor.parallel import Layout, close_parallel
from megaent.actor.state import load_state, save_state
from megaent.durable import replace_file
from megaent.errors import CheckpointError
from megaent.evaluation.evaluate import EvaluationSummary
from megaent.loop.curriculum import measure_semantic_entropy
from megaent.loop.trainer import Trainer
from megaent.report.curves import before_after_markdown, before_after_table, draw_curves, write_summary
from megaent.report.progress import Progress
from megaent.run.checkpoint import CheckpointStore, newest_valid, read_state, save_checkpoint
from megaent.run.config import TrainConfig
from megaent.run.directory import Recorder, RunDirectory, log_to
from megaent.run.launch import (
    build_actor,
    build_trainer,
    check_before_building,
    join,
    load_prompts,
    run_path,
)
from megaent.run.models import model_folder

Numbers = dict[str, float]

log = logging.getLogger(__name__)


def train(config: TrainConfig, config_yaml: str, overrides: list[str], *, is_resumed: bool = False) -> None:
    """Run ``config`` to its last step; every rank calls it. Raises MegaentError."""
    check_before_building(config)
    say = Console(quiet=os.environ.get("RANK", "0") != "0", highlight=False).print
    folder = model_folder(config.model, config.data, say=say, timeout_s=config.run.timeout_s)
    task, stream = load_prompts(config, folder)
    layout = join(config)
    try:
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
                        method="\n".join([repr(trainer.schedule), "", *trainer.schedule.words()]),
                        threads=torch.get_num_threads(),
                    )
                log_to(directory.path)
            layout.barrier()
            Run(config, trainer, actor, directory).run()
        finally:
            for part in (trainer.ahead, trainer.engine, trainer.reward):
                if part is not None:
                    part.close()
    finally:
        close_parallel()


class Run:
    """The steps of one process, with everything around them."""

    def __init__(
        self, config: TrainConfig, trainer: Trainer, actor: MegatronActor, directory: RunDirectory
    ) -> None:
        self.config, self.trainer, self.actor, self.directory = config, trainer, actor, directory
        self.store = CheckpointStore(directory.checkpoints, keep=config.checkpoint.keep)
        self.before: Numbers | None = None
        self.seconds_before = 0.0
        self.started = time.perf_counter()

    @property
    def layout(self) -> Layout:
        return self.actor.layout

    def run(self) -> None:
        done = self.restore()
        self.trainer.publish(done)
        self.prepare()
        config = self.config
        with Progress(config.steps, first_step=done, rank=self.layout.rank) as progress:
            progress.say(f"{self.layout} · {config.run.name} · {self.directory.path}")
            progress.say(f"method {self.trainer.schedule!r}")
            for line in self.trainer.schedule.words():
                progress.say(f"  {line}")
            for phase in self.trainer.schedule.phases:
                sampling = phase.method.sampling
                if sampling is not None and sampling.metric == "accuracy" and phase.method.rewards:
                    log.warning(
                        "%s: groups are kept or replaced by the task's own grade; differences that only the "
                        "method's reward terms make do not count (method=dapo has metric=shaped)",
                        phase.name,
                    )
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
                self.enter_phase(step)
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
            vocab_size=self.actor.vocab_size,
            tensorboard=self.config.run.tensorboard,
            responses_kept=self.config.run.responses_kept,
        )

    # ------------------------------------------------------------ checkpoints

    def save(self, step: int) -> None:
        """A checkpoint of ``step``; a collective. Either it is whole or it is not there."""
        started = time.perf_counter()
        actor = self.actor
        save_checkpoint(
            self.store,
            step,
            write_model=self._write_model,
            state={
                "step": step,
                "optimizer_steps": actor.optimizer_steps,
                "layout": str(self.layout),
                "architecture": dataclasses.asdict(actor.architecture),
                "reference": actor.reference_digest,
                "method": self.trainer.state.state(),
                "before": self.before,
                "seconds": self.seconds_before + started - self.started,
            },
            ranks=self.layout,
        )
        log.info("saved the checkpoint of step %d in %.1f s", step, time.perf_counter() - started)

    def _write_model(self, folder: Path) -> None:
        """Raises OSError, which the checkpoint explains, for every way in which the disk can refuse."""
        try:
            save_state(self.actor, folder)
            if self.trainer.ahead is not None:
                self.trainer.ahead.save(folder, dp_rank=self.layout.dp_rank)
        except (RuntimeError, CheckpointException) as error:
            # Megatron's writers are processes; of what befell them it passes on the text alone.
            raise OSError(str(error).strip().splitlines()[-1]) from error

    def restore(self) -> int:
        """Load the newest checkpoint that verifies; the number of steps behind it, 0 for a new run."""
        path, refused = newest_valid(self.store, self.layout)
        if self.layout.rank == 0:
            for problem in refused:
                print(f"megaent: a damaged checkpoint is passed over: {problem}", file=sys.stderr, flush=True)
        done = 0 if path is None else self._load(path)
        if self.layout.rank == 0:
            self.directory.cut_after(done)
        return done

    def _load(self, path: Path) -> int:
        state: dict[str, Any] = dict(read_state(path))
        actor = self.actor
        mine = dataclasses.asdict(actor.architecture)
        lacking = [
            key
            for key in ("step", "optimizer_steps", "architecture", "reference", "method")
            if key not in state
        ]
        if lacking:
            raise CheckpointError(
                f"{path}/state.json lacks {', '.join(lacking)}: it was written by another version of megaent"
            )
        if state["architecture"] != mine:
            raise CheckpointError(
                f"{path} is of another model: {state['architecture']}, this run's is {mine}"
            )
        self.trainer.state.load_state(state["method"])
        if self.trainer.state.reference:
            reference = self.directory.path / self.trainer.state.reference
            actor.load_folder(reference)  # until the checkpoint's weights take their place
            actor.keep_reference(reference)
        if state["reference"] != actor.reference_digest:
            raise CheckpointError(
                f"{path} was trained against the reference policy {state['reference']}, this run's is "
                f"{actor.reference_digest}; start from the same model.path and with the same method"
            )
        load_state(actor, path / "model")
        if self.trainer.ahead is not None:
            self.trainer.ahead.load(path / "model", dp=self.layout.dp, dp_rank=self.layout.dp_rank)
        actor.optimizer_steps = int(state["optimizer_steps"])
        self.before = state["before"]
        self.seconds_before = float(state["seconds"])
        return int(state["step"])

    # ------------------------------------------------------------ phases and curriculum

    def prepare(self) -> None:
        """Semantic entropies of the training prompts under the starting model, if a curriculum asks."""
        state = self.trainer.state
        if state.curriculum is None or state.semantic_entropy:
            return
        started = time.perf_counter()
        state.semantic_entropy = measure_semantic_entropy(self.trainer, state.curriculum)
        log.info(
            "measured the semantic entropy of %d prompts in %.1f s",
            len(state.semantic_entropy),
            time.perf_counter() - started,
        )

    def enter_phase(self, step: int) -> None:
        """What a phase asks for at its start: a new reference policy, a new optimizer. A collective."""
        trainer, state = self.trainer, self.trainer.state
        number = trainer.schedule.number_at(step, trainer.num_steps)
        if number == state.phase:
            return
        phase = trainer.schedule.phases[number]
        log.info("step %d begins the phase %r", step, phase.name)
        if phase.reset_reference and trainer.schedule.needs_reference:
            state.reference = f"references/{number}"
            self._write_reference(self.directory.path / state.reference)
        if phase.reset_optimizer:
            self.actor.reset_optimizer()
        state.phase = number

    def _write_reference(self, folder: Path) -> None:
        """The present policy as the reference, kept as a Hugging Face folder for a later resume."""
        if self.layout.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_weights(folder, self.actor.named_weights())
        else:
            for _ in self.actor.named_weights():
                pass
        self.layout.barrier()
        self.actor.keep_reference(folder)

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
        """An evaluation as metrics: ``evaluate/accuracy``, ``evaluate/n_2/accuracy`` of the split n=2."""
        numbers = self.evaluate()
        seconds = numbers.pop("seconds")
        named = {re.sub(r"[^a-z0-9_/]", "_", name.lower()): value for name, value in numbers.items()}
        return {f"evaluate/{name}": value for name, value in named.items()} | {"time/evaluate_s": seconds}

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
