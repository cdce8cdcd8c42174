"""What must fit before a model is built: prompts, answers, packs, stages and evaluations of one run."""

from __future__ import annotations

from megaent.data.task import Task
from megaent.errors import ConfigError, DataError
from megaent.objective.method import Phase, Schedule
from megaent.run.config import TrainConfig


def longest_answer(schedule: Schedule, max_new_tokens: int, *, context: int) -> int:
    """Tokens of the longest answer of any phase. Raises ConfigError where it leaves no room for a prompt."""
    phase = max(schedule.phases, key=lambda phase: phase.max_new_tokens or max_new_tokens)
    longest = phase.max_new_tokens or max_new_tokens
    if longest >= context:
        raise ConfigError(
            f"{_whose(phase)}={longest} must leave room for a prompt in the model's context of {context} "
            f"tokens, and it leaves {context - longest} tokens; lower it"
        )
    return longest


def _whose(phase: Phase) -> str:
    """The key that says how long an answer may be."""
    if phase.max_new_tokens is None:
        return "rollout.max_new_tokens"
    return f"the method's own length of its phase {phase.name!r} (its options, not rollout.max_new_tokens)"


def check_fit(config: TrainConfig, task: Task, *, longest: int) -> None:
    """Raises ConfigError or DataError for what the first steps, or the last, would fail at."""
    _check_packs(task, longest, config.parallel.microbatch_tokens)
    _check_stages(config.method, len(task.train), config.rollout.prompts_per_step)
    asks = next((key for key in ("every", "at_start") if getattr(config.evaluate, key)), None)
    if asks is not None and not task.evaluation:
        raise DataError(
            f"evaluate.{asks} asks for evaluations and no prompt is held out; give data.eval_path, raise "
            f"data.eval_fraction, or leave evaluate.{asks} out"
        )


def _check_packs(task: Task, longest: int, budget: int) -> None:
    prompt = max((len(prompt.tokens) for prompt in task.train), default=0)
    # The last token of an answer is predicted and never read.
    needed = prompt + longest - 1
    if needed > budget:
        raise ConfigError(
            f"parallel.microbatch_tokens={budget} cannot hold one sequence: the longest prompt has {prompt} "
            f"tokens and an answer up to {longest}; raise it to {needed} or lower rollout.max_new_tokens"
        )


def _check_stages(schedule: Schedule, num_prompts: int, per_step: int) -> None:
    curricula = [phase.method.curriculum for phase in schedule.phases]
    for curriculum in filter(None, curricula):
        smallest = num_prompts // curriculum.stages
        is_enough = smallest >= 2 * per_step or (smallest >= per_step and smallest % per_step == 0)
        if not is_enough:
            raise ConfigError(
                f"{curriculum.stages} stages of {num_prompts} training prompts have {smallest} each, and "
                f"rollout.prompts_per_step={per_step} needs {per_step}, or {2 * per_step} and more; "
                "lower it, choose fewer stages or give more prompts"
            )
