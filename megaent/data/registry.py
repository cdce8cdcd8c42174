"""The tasks that ``data=`` can name."""

from __future__ import annotations

from pathlib import Path

from megaent.config import AdditionConfig, ChainSumConfig, DataConfig, JsonlConfig, TwoStrategiesConfig
from megaent.data.addition import load_addition
from megaent.data.chain_sum import load_chain_sum
from megaent.data.jsonl import load_jsonl
from megaent.data.task import Task
from megaent.data.two_strategies import load_two_strategies
from megaent.errors import ConfigError, DataError


def load_task(config: DataConfig, model_path: Path, *, max_prompt_tokens: int) -> Task:
    """The task of this configuration, tokenised for the model in ``model_path``.

    ``max_prompt_tokens`` is what the model's context leaves beside ``rollout.max_new_tokens``
    (``megaent.data.tokenizer.context_length``).
    """
    if max_prompt_tokens < 1:
        raise ConfigError(
            "rollout.max_new_tokens must leave room for a prompt in the model's context, and it leaves "
            f"{max_prompt_tokens} tokens; lower it"
        )
    match config:
        case JsonlConfig():
            task = load_jsonl(config, model_path, max_prompt_tokens=max_prompt_tokens)
        case ChainSumConfig():
            task = load_chain_sum(config, model_path)
        case AdditionConfig():
            task = load_addition(config, model_path)
        case TwoStrategiesConfig():
            task = load_two_strategies(config, model_path)
        case _:
            known = "chain_sum, two_strategies, addition or jsonl"
            raise ConfigError(f"data must be {known}, got {type(config).__name__}")
    for prompt in (*task.train, *task.evaluation):
        if len(prompt.tokens) > max_prompt_tokens:
            raise DataError(
                f"prompt {prompt.id} has {len(prompt.tokens)} tokens, and the model's context leaves "
                f"{max_prompt_tokens} beside rollout.max_new_tokens; lower the latter"
            )
    return task
