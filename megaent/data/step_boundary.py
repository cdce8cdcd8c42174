"""Which tokens close a reasoning step: those whose own text holds the boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from megaent.data.task import Task
from megaent.errors import ConfigError


def tokens_closing_a_step(task: Task, boundary: str, vocab_size: int) -> Tensor:
    """[K] int64 ids, ascending; ``boundary`` "" is the task's own.

    A boundary that is spread over several tokens is not seen, as in ETR's authors' code. Raises
    ConfigError when no token of the vocabulary holds it.
    """
    text = boundary or task.step_boundary
    ids = [token for token in range(vocab_size) if text in task.decode((token,))]
    if not text or not ids:
        raise ConfigError(
            f"no token of this model's vocabulary holds the step boundary {text!r}; set the method's "
            "boundary to a text that its tokenizer keeps in one token"
        )
    return torch.tensor(ids, dtype=torch.int64)
