"""Which tokens close a reasoning step, or end the thinking part: those whose own text holds a given one."""

from __future__ import annotations

import torch
from torch import Tensor

from megaent.data.task import Task
from megaent.errors import ConfigError


def tokens_holding(text: str, task: Task, vocab_size: int, option: str) -> Tensor:
    """[K] int64 ids, ascending; ``option`` is the method's option that ``text`` came from.

    Special and ordinary tokens alike: `</think>` is special here and ordinary there. A text that is spread
    over several tokens is not seen, as in ETR's authors' code. Raises ConfigError when no token of the
    vocabulary holds it.
    """
    ids = [token for token in range(vocab_size) if text in task.text_of((token,))]
    if not text or not ids:
        raise ConfigError(
            f"no token of this model's vocabulary holds {text!r}; set the method's {option} to a text that "
            "its tokenizer keeps in one token"
        )
    return torch.tensor(ids, dtype=torch.int64)
