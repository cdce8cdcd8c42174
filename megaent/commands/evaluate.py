"""``megaent evaluate``: answers of a stored model to held-out questions, kept, graded and summarised."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from megaent.commands.first_word import is_option
from megaent.durable import replace_file
from megaent.errors import ConfigError, DataError
from megaent.evaluation.options import NAMES, EvaluationOptions, read_options
from megaent.evaluation.response_file import ResponseFile, Settings
from megaent.run.command_record import COMMAND, read_command

if TYPE_CHECKING:
    from megaent.data.task import Task
    from megaent.rollout.engine import RolloutEngine
    from megaent.run.config import TrainConfig
    from megaent.run.stored_model import StoredModel
    from megaent.types import Group, Prompt, SamplingParams

USAGE = """usage: megaent evaluate MODEL [data=…] [key=value …]
       megaent evaluate --regrade FOLDER [k=…] [grader=NAME] [base=FOLDER]

  MODEL    a run (its newest checkpoint), one of its checkpoints, or a Hugging Face
           folder
  data=    a task's name with its data.… options, or files, also several:
           data=gsm8k.jsonl,hub:openai/gsm8k:main:test; of a file every row is asked.
           A run is by default evaluated on its own held-out prompts
  k=1,4           for pass@k and the others    samples=N       drawn a prompt; the largest k
  temperature=1   0 is greedy                  top_p=1
  max_new_tokens= that of rollout              prompts=N       the first N; 0 all
  engine=         embedded or sglang           seed=0
  out=FOLDER      of the responses             base=FOLDER     to compare with
  data.…= rollout.…= model.dtype= device=      as for megaent train

The responses are kept: the same command goes on after a kill, --regrade grades them
again, megaent audit FOLDER/responses.jsonl looks at them.
"""
_WIDTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    source: Path
    options: EvaluationOptions
    sets: tuple[tuple[str, ...], ...]  # overrides that choose each set of questions; () keeps the run's own
    overrides: tuple[str, ...]  # the other words, as for train
    is_regrade: bool = False


def evaluate(words: Sequence[str], *, console: Console | None = None) -> int:
    if not words or "--help" in words or "-h" in words:
        print(USAGE, end="")
        return 0
    command = read_words(words)
    console = console or Console(width=_WIDTH, highlight=False)
    if command.is_regrade:
        _finish(ResponseFile(command.source), command.options, console)
        return 0
    _Evaluation(command, console).run()
    return 0


# ---------------------------------------------------------------- words


def read_words(words: Sequence[str]) -> Command:
    """Raises ConfigError for what is no command."""
    is_regrade = "--regrade" in words
    rest = [word for word in words if word != "--regrade"]
    if not rest or is_option(rest[0]) or rest[0].startswith("-"):
        raise ConfigError("evaluate needs a model, or --regrade a folder: megaent evaluate runs/… data=…")
    pairs = [_pair(word) for word in rest[1:]]
    own = {name: value for name, value in pairs if name in NAMES}
    others = [(name, value) for name, value in pairs if name not in NAMES]
    if is_regrade and (others or own.keys() - {"k", "base", "grader"}):
        odd = next(iter([name for name, _ in others] or sorted(own.keys() - {"k", "base", "grader"})))
        raise ConfigError(f"--regrade takes k=, base= and grader= and draws nothing; leave {odd}= out")
    if not is_regrade and "grader" in own:
        raise ConfigError("grader= belongs to --regrade; a task names its own grader")
    sets = tuple(_set(part) for name, value in others if name == "data" for part in value.split(","))
    engine = tuple(f"rollout={value}" for name, value in others if name == "engine")
    kept = tuple(f"{name}={value}" for name, value in others if name not in ("data", "engine"))
    return Command(
        source=Path(rest[0]),
        options=read_options(own),
        sets=sets,
        overrides=engine + kept,
        is_regrade=is_regrade,
    )


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ConfigError(f"{word!r} is no option; write KEY=VALUE, for example k=8")
    return name, value


def _set(given: str) -> tuple[str, ...]:
    """A task's name, a name of the hub, or a file: a path, which has a suffix or a folder or exists."""
    from megaent.config.overrides import quoted
    from megaent.data.hub import is_hub

    is_file = is_hub(given) or Path(given).suffix or os.sep in given or Path(given).exists()
    return ("data=jsonl", f"data.path={quoted(given)}") if is_file else (f"data={given}",)


# ---------------------------------------------------------------- what is evaluated


class _Evaluation:
    """One model on one or several sets, by one engine."""

    def __init__(self, command: Command, console: Console) -> None:
        from megaent.run.stored_model import find_stored_model

        self.command, self.options, self.console = command, command.options, console
        self.model: StoredModel = find_stored_model(command.source, console.print)
        self._engine: RolloutEngine | None = None

    def run(self) -> None:
        """Every set is read before the first is answered: a mistake in the last one costs nothing."""
        sets = self.command.sets or ((),)
        plans = [self._plan(chosen) for chosen in sets]
        _refuse_same_folder([folder for _, _, folder in plans])
        if self.options.base:
            for _, task, _ in plans:
                _read_base(self.options.base, task.grader, {prompt.id for prompt in task.evaluation})
        try:
            for config, task, folder in plans:
                self._evaluate(config, task, folder)
        finally:
            if self._engine is not None:
                self._engine.close()

    def _plan(self, chosen: tuple[str, ...]) -> tuple[TrainConfig, Task, Path]:
        from megaent.config.fastest_dtype import require_named_dtype
        from megaent.data.registry import load_task
        from megaent.model_folder.tokenizer import context_length
        from megaent.reward.reward import require_grader

        config = self._config(chosen)
        require_named_dtype(config, "an evaluation")
        limit = self.options.max_new_tokens or config.rollout.max_new_tokens
        room = context_length(self.model.folder) - limit
        task = load_task(config.data, self.model.folder, max_prompt_tokens=room)
        require_grader(task.grader)
        task = replace(task, evaluation=self._asked(config, task, is_chosen=bool(chosen)))
        if not task.evaluation:
            raise DataError("the task holds no prompt out to evaluate on; name a file by data=")
        return config, task, self._folder(config)

    def _config(self, chosen: tuple[str, ...]) -> TrainConfig:
        """A run without ``data=`` keeps its own task and engine; all else starts from the defaults."""
        from megaent.config.composition import compose_config
        from megaent.config.overrides import quoted

        words = list(self.command.overrides)
        if self.model.run is not None and not chosen:
            return compose_config([*_own_words(self.model.run, words), *words])[0]
        if not chosen:
            raise ConfigError(f"{self.command.source} is no run that has questions of its own; add data=…")
        dtype = [] if self.model.run is None else [f"model.dtype={_own_dtype(self.model.run)}"]
        path = f"model.path={quoted(str(self.model.folder))}"
        config = compose_config(["model=hf", path, *dtype, *chosen, *words])[0]
        config.data.require_files()
        return config

    def _asked(self, config: TrainConfig, task: Task, *, is_chosen: bool) -> tuple[Prompt, ...]:
        """The held-out prompts; of a file that was named for this, every row."""
        from megaent.data.jsonl import JsonlOptions
        from megaent.randomness import draw_seed

        prompts = tuple(task.evaluation)
        if is_chosen and isinstance(config.data, JsonlOptions) and not config.data.eval_path:
            prompts = (*task.train, *task.evaluation)
            prompts = tuple(sorted(prompts, key=lambda prompt: draw_seed("evaluate", prompt.id)))
        return tuple(prompts[: self.options.prompts or None])

    def _folder(self, config: TrainConfig) -> Path:
        name = config.data.name
        path = getattr(config.data, "eval_path", "") or getattr(config.data, "path", "")
        name = Path(path).name.split(".")[0].replace(":", "-") if path else name
        if self.options.out:
            return Path(self.options.out) / name if len(self.command.sets) > 1 else Path(self.options.out)
        if self.model.run is not None:
            return self.model.run / "evaluations" / f"{name}-step-{self.model.step}"
        return Path("evaluations") / f"{self.model.folder.name}-{name}"

    # ------------------------------------------------------------ one set

    def _evaluate(self, config: TrainConfig, task: Task, folder: Path) -> None:
        from megaent.evaluation.generate import generate, longest_first

        prompts, sampling = longest_first(task.evaluation), self._sampling(config, task)
        at_once = _at_once(config, self.options.drawn)
        file = ResponseFile(folder)
        file.begin(self._settings(config, task, sampling, at_once=at_once))
        self.console.print(f"{len(prompts)} prompts, {self.options.drawn} responses each, into {folder}")
        if len(file.read()) < len(prompts):
            generate(
                self._ready_engine(config, folder),
                prompts,
                file,
                samples=self.options.drawn,
                seed=self.options.seed,
                sampling=sampling,
                at_once=at_once,
                decode=task.decode,
                say=self.console.print,
            )
        _finish(file, self.options, self.console)

    def _sampling(self, config: TrainConfig, task: Task) -> SamplingParams:
        from megaent.types import SamplingParams

        return SamplingParams(
            max_new_tokens=self.options.max_new_tokens or config.rollout.max_new_tokens,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            stop_token_ids=task.stop_token_ids,
        )

    def _settings(
        self, config: TrainConfig, task: Task, sampling: SamplingParams, *, at_once: int
    ) -> Settings:
        """What makes the responses what they are."""
        from megaent.evaluation.generate import prompts_digest

        return {
            "model": str(self.command.source),
            "step": self.model.step,
            "weights": self.model.digest,
            "data": config.data.name,
            "path": getattr(config.data, "eval_path", "") or getattr(config.data, "path", ""),
            "prompts": prompts_digest(task.evaluation),
            "num_prompts": len(task.evaluation),
            "samples": self.options.drawn,
            "seed": self.options.seed,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(sampling.stop_token_ids),
            "engine": config.rollout.name,
            "dtype": getattr(config.rollout, "dtype", "") or config.model.dtype,
            "prompts_at_once": at_once,
            "grader": task.grader,
            "grader_options": dict(task.grader_options),
        }

    def _ready_engine(self, config: TrainConfig, folder: Path) -> RolloutEngine:
        """Started when a set needs it, with the model's weights in it; kept for the sets that follow."""
        if self._engine is None:
            from megaent.actor.parallel import resolve_device
            from megaent.rollout.options import Leader
            from megaent.run.engines import build_engine

            architecture = self.model.architecture
            self.console.print(f"loading {self.model.weights} into the engine {config.rollout.name}")
            self._engine = build_engine(
                config.rollout,
                Leader(
                    model=self.model.folder,
                    run=folder,
                    number=0,
                    vocab_size=architecture.vocab_size,
                    context_length=architecture.max_positions,
                    dtype=config.model.dtype,
                    device=resolve_device(config.device),
                ),
            )
            self._engine.receive_weights(self.model.named_tensors(), self.model.step)
        return self._engine


def _refuse_same_folder(folders: Sequence[Path]) -> None:
    same = [folder for folder in folders if folders.count(folder) > 1]
    if same:
        raise ConfigError(
            f"{len(same)} sets of one name would share {same[0]}; evaluate one at a time, each with its out="
        )


def _own_words(run: Path, words: Sequence[str]) -> list[str]:
    """The overrides that a run was started with, but for where it lay and for an engine chosen anew."""
    record = read_command(run)
    is_engine_new = any(word.startswith("rollout=") for word in words)
    dropped = ("run.dir=", *(("rollout=", "rollout.") if is_engine_new else ()))
    kept = [word for word in record.overrides if not word.startswith(dropped)]
    return kept + ([f"data.date={record.date}"] if record.date else [])


def _own_dtype(run: Path) -> str:
    from megaent.config.composition import compose_config

    if not (run / COMMAND).is_file():
        return "float32"
    return compose_config(_own_words(run, ()))[0].model.dtype


def _at_once(config: TrainConfig, samples: int) -> int:
    """Prompts a batch: as many as the engine answers together."""
    together = getattr(config.rollout, "batch_size", 0) or getattr(config.rollout, "concurrency", 0) or 128
    return max(together // samples, 1)


# ---------------------------------------------------------------- grades and what they say


def _read_base(base: str, grader: str, asked: Set[str]) -> list[Group]:
    """Graded as what is compared with it. Raises DataError where it answered nothing of what is asked."""
    groups = ResponseFile(Path(base)).read_graded(grader)
    if asked.isdisjoint(group.prompt.id for group in groups):
        raise DataError(f"base={base} answered none of these prompts; evaluate both on the same data")
    return groups


def _finish(file: ResponseFile, options: EvaluationOptions, console: Console) -> None:
    from megaent.evaluation.report import as_json, by_label, compare, report
    from megaent.evaluation.table import show

    settings = file.settings()
    groups = _responses(file, settings, options)
    grader = options.grader or settings["grader"]
    base = _read_base(options.base, grader, {g.prompt.id for g in groups}) if options.base else None
    groups = _graded(groups, grader, settings, has_own_grader=not options.grader)
    file.write_grades(groups, grader)
    has_entropy = settings["temperature"] > 0 and settings["top_p"] == 1
    whole = report(groups, options.k, has_entropy=has_entropy)
    cuts = {
        label: {value: report(part, options.k, has_entropy=has_entropy) for value, part in parts.items()}
        for label, parts in by_label(groups).items()
    }
    comparison = None if base is None else compare(groups, base)
    if base is not None and comparison is None:
        raise DataError(f"no prompt that base={options.base} answered too has a verdict on both sides")
    summary: dict[str, Any] = {"settings": settings | {"grader": grader}, "all": as_json(whole)}
    summary["by"] = {label: {v: as_json(part) for v, part in parts.items()} for label, parts in cuts.items()}
    summary["comparison"] = None if comparison is None else as_json(comparison) | {"base": options.base}
    replace_file(file.folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    show(console, _title(settings, len(groups)), whole, cuts, comparison)
    console.print(f"responses {file.path}\nnumbers   {file.folder / 'summary.json'}", soft_wrap=True)


def _responses(file: ResponseFile, settings: Settings, options: EvaluationOptions) -> list[Group]:
    groups = file.read()
    if len(groups) < settings["num_prompts"]:
        raise DataError(
            f"{file.path} holds {len(groups)} of {settings['num_prompts']} prompts; finish it "
            "by the command that began it"
        )
    if max(options.k) > settings["samples"]:
        raise ConfigError(
            f"k={max(options.k)} needs as many responses a prompt, and {settings['samples']} were drawn; "
            "choose a smaller k, or evaluate again with samples= and another out="
        )
    return groups


def _graded(groups: list[Group], grader: str, settings: Settings, *, has_own_grader: bool) -> list[Group]:
    from megaent.reward.reward import make_reward

    reward = make_reward(grader, **(settings["grader_options"] if has_own_grader else {}))
    try:
        return reward.grade(groups)
    finally:
        reward.close()


def _title(settings: Settings, prompts: int) -> list[str]:
    step = f", step {settings['step']}" if settings["step"] else ""
    name = Path(settings["path"]).name or settings["data"]
    return [
        "",
        f"{settings['model']}{step}",
        f"{name}: {prompts} prompts, {settings['samples']} responses each",
        f"temperature {settings['temperature']:g}, top-p {settings['top_p']:g}, at most "
        f"{settings['max_new_tokens']} tokens; {settings['engine']}, {settings['dtype']}",
    ]
