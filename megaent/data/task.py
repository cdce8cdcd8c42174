"""A task: what to train on, what to evaluate on, and how a response is read and graded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from megaent.config import AdditionConfig, ChainSumConfig, DataConfig, JsonlConfig, TwoStrategiesConfig
from megaent.errors import ConfigError, DataError
from megaent.types import Group, Prompt

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Prompts with answer keys, and everything about them that the loop needs to know.

    ``evaluation`` is ordered so that any prefix holds its splits as evenly as they allow; none of its
    problems appears in ``train``. ``grader`` and ``grader_options`` are what ``make_reward`` takes.
    """

    train: tuple[Prompt, ...]
    evaluation: tuple[Prompt, ...]
    grader: str
    grader_options: Mapping[str, object] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...]
    decode: Decode  # token ids -> text, special tokens left out
    step_boundary: str = ""  # text that closes a step of reasoning; "" for answers without steps


def load_task(config: DataConfig, model_path: Path, *, max_prompt_tokens: int) -> Task:
    """The task of this configuration, tokenised for the model in ``model_path``.

    ``max_prompt_tokens`` is what the model's context leaves beside ``rollout.max_new_tokens``
    (``megaent.data.tokenizer.context_length``).
    """
    # The tasks are made of this module's parts.
    from megaent.data.addition import load_addition
    from megaent.data.chain_sum import load_chain_sum
    from megaent.data.jsonl import load_jsonl
    from megaent.data.two_strategies import load_two_strategies

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


def decode_groups(groups: Iterable[Group], decode: Decode) -> list[Group]:
    """The groups with the text of every response filled in."""
    return [
        replace(group, responses=tuple(replace(r, text=decode(r.tokens)) for r in group.responses))
        for group in groups
    ]


def alternate(splits: Iterable[Sequence[Prompt]]) -> tuple[Prompt, ...]:
    """One prompt of each split in turn, until all are used up."""
    queues = [list(split) for split in splits]
    longest = max(map(len, queues), default=0)
    return tuple(queue[i] for i in range(longest) for queue in queues if i < len(queue))
