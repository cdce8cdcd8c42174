"""The tasks that ``data=`` can name. A new one is a file with its options and its loader, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from megaent.data.addition import AdditionOptions, load_addition
from megaent.data.chain_sum import ChainSumOptions, load_chain_sum
from megaent.data.hidden_numbers import HiddenNumbersOptions, load_hidden_numbers
from megaent.data.jsonl import JsonlOptions, load_jsonl
from megaent.data.options import DataOptions
from megaent.data.reasoning_gym import ReasoningGymOptions, load_reasoning_gym
from megaent.data.shard_options import ShardsOptions
from megaent.data.task import Task, longest_of
from megaent.data.two_strategies import TwoStrategiesOptions, load_sums
from megaent.data.worked_sums import WorkedSumsOptions
from megaent.errors import ConfigError, DataError


class Entry(NamedTuple):
    options: type[DataOptions]
    load: Callable[[Any, Path, int], Task]  # options, the model's folder, tokens that a prompt may have


def _load_shards(options: ShardsOptions, model_path: Path) -> Task:
    from megaent.data.shards import load_shards  # numpy

    return load_shards(options, model_path)


TASKS = {
    "chain_sum": Entry(ChainSumOptions, lambda options, model, _: load_chain_sum(options, model)),
    "two_strategies": Entry(TwoStrategiesOptions, lambda options, model, _: load_sums(options, model)),
    "worked_sums": Entry(WorkedSumsOptions, lambda options, model, _: load_sums(options, model)),
    "hidden_numbers": Entry(
        HiddenNumbersOptions, lambda options, model, _: load_hidden_numbers(options, model)
    ),
    "addition": Entry(AdditionOptions, lambda options, model, _: load_addition(options, model)),
    "reasoning_gym": Entry(
        ReasoningGymOptions,
        lambda options, model, limit: load_reasoning_gym(options, model, max_prompt_tokens=limit),
    ),
    "jsonl": Entry(
        JsonlOptions, lambda options, model, limit: load_jsonl(options, model, max_prompt_tokens=limit)
    ),
    "shards": Entry(ShardsOptions, lambda options, model, _: _load_shards(options, model)),
}


def load_task(options: DataOptions, model_path: Path, *, max_prompt_tokens: int) -> Task:
    """The task that ``options.name`` says, tokenised for the model in ``model_path``.

    ``max_prompt_tokens`` is what the model's context leaves beside ``rollout.max_new_tokens``
    (``megaent.model_folder.tokenizer.context_length``).
    """
    if max_prompt_tokens < 1:
        raise ConfigError(
            "rollout.max_new_tokens must leave room for a prompt in the model's context, and it leaves "
            f"{max_prompt_tokens} tokens; lower it"
        )
    if options.name not in TASKS:
        raise ConfigError(f"data must be one of {', '.join(TASKS)}, got {options.name!r}")
    task = TASKS[options.name].load(options, model_path, max_prompt_tokens)
    for prompts in (task.train, task.evaluation):
        if longest_of(prompts) > max_prompt_tokens:
            raise DataError(
                f"a prompt of data={options.name} has {longest_of(prompts)} tokens, and the model's context "
                f"leaves {max_prompt_tokens} beside rollout.max_new_tokens; lower the latter, or leave long "
                "prompts out"
            )
    return task
