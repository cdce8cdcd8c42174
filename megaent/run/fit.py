"""What must fit before a model is built: prompts, answers, packs, stages and evaluations of one run."""

from __future__ import annotations

from collections.abc import Sequence

from megaent.data.task import PromptSets, Task, longest_of
from megaent.errors import ConfigError, DataError
from megaent.objective.method import Phase, Schedule
from megaent.run.config import TrainConfig
from megaent.types import Prompt


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
    _check_curriculum(config, len(task.train))
    _check_stages(config.method, task.train, config.rollout.prompts_per_step)
    asks = next((key for key in ("every", "at_start") if getattr(config.evaluate, key)), None)
    if asks is not None and not task.evaluation:
        raise DataError(
            f"evaluate.{asks} asks for evaluations and no prompt is held out; give data.eval_path, raise "
            f"data.eval_fraction, or leave evaluate.{asks} out"
        )


def _check_packs(task: Task, longest: int, budget: int) -> None:
    prompt = longest_of(task.train)
    # The last token of an answer is predicted and never read.
    needed = prompt + longest - 1
    if needed > budget:
        raise ConfigError(
            f"parallel.microbatch_tokens={budget} cannot hold one sequence: the longest prompt has {prompt} "
            f"tokens and an answer up to {longest}; raise it to {needed} or lower rollout.max_new_tokens"
        )


def _check_curriculum(config: TrainConfig, num_prompts: int) -> None:
    """What a curriculum of the data cannot draw."""
    curriculum, methods = config.data.curriculum, [phase.method for phase in config.method.phases]
    if not curriculum.by:
        return
    key = f"data.curriculum.by={curriculum.by}"
    if any(method.curriculum is not None for method in methods):
        raise ConfigError(f"{key} and the method's own curriculum both choose the prompts; leave one out")
    if curriculum.learns and config.rollout.staleness:
        raise ConfigError(
            f"{key} chooses prompts by the answers of the step before, and rollout.staleness="
            f"{config.rollout.staleness} asks before they are there; set it to 0"
        )
    if curriculum.by == "semantic_entropy" and config.rollout.group_size < 2:
        raise ConfigError(f"{key} needs answers to compare; set rollout.group_size to 2 or more")
    batches = max(method.sampling.max_batches if method.sampling else 1 for method in methods)
    needed = batches * config.rollout.prompts_per_step
    if num_prompts < needed:
        raise ConfigError(
            f"{key} draws up to {needed} different prompts a step, and there are {num_prompts}; lower "
            "rollout.prompts_per_step or give more prompts"
        )


def _check_stages(schedule: Schedule, prompts: Sequence[Prompt], per_step: int) -> None:
    curricula = [phase.method.curriculum for phase in schedule.phases]
    for curriculum in filter(None, curricula):
        if isinstance(prompts, PromptSets) and prompts.num_sets > 1:
            raise ConfigError(
                f"{curriculum.stages} stages need one set of prompts, got {prompts.num_sets}: a stage may "
                "have too little of one of them; leave data.weights out, or make shards of "
                "all questions together"
            )
        smallest = len(prompts) // curriculum.stages
        is_enough, needed = _fills_steps(smallest, per_step, is_ordered=isinstance(prompts, PromptSets))
        if not is_enough:
            raise ConfigError(
                f"{curriculum.stages} stages of {len(prompts)} training prompts have {smallest} each, and "
                f"rollout.prompts_per_step={per_step} needs {needed} and more; "
                "lower it, choose fewer stages or give more prompts"
            )


def _fills_steps(number: int, per_step: int, *, is_ordered: bool) -> tuple[bool, str]:
    """Whether so many prompts are enough for steps without one twice, and how many are."""
    if is_ordered:
        return number >= 3 * per_step, f"{3 * per_step}"
    is_whole = number >= per_step and number % per_step == 0
    return is_whole or number >= 2 * per_step, f"{per_step}, or {2 * per_step}"
