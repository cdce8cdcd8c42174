"""What reaches the output weight: response tokens alone, and of their logits a chunk at a time."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from support.builders import group, seen
from support.tiny_hf import save_tiny
from torch.utils._python_dispatch import TorchDispatchMode

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.types import Experience

pytestmark = pytest.mark.full

TILE = 25  # columns


class Products(TorchDispatchMode):
    """Counts the rows of every matrix product that is as wide as a tile of the vocabulary."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.rows: list[int] = []
        self.has_whole_rows = False  # a new tensor is as wide as the vocabulary

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dim() == 2:
            if func == torch.ops.aten.mm.default and result.shape[1] == TILE:
                self.rows.append(result.shape[0])
            self.has_whole_rows |= result.shape[1] == self.vocab_size and not func.is_view
        return result


def batch() -> Experience:
    """Two prompts of 40 tokens, five responses."""
    groups = [group(0, [1.0, 0.0], [5, 9], prompt_length=40)]
    groups.append(group(1, [0.0, 1.0, 1.0], [3, 1, 17], prompt_length=40))
    packed = pack(groups)
    return replace(packed, token=packed.token % 100)


def test_score_and_update_form_the_logits_of_response_tokens_alone(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(tmp_path / "model", family="qwen2", tie=False)
    actor = MegatronActor(folder, layout, ActorOptions(dtype="float32"), AdamOptions(lr=1e-2))
    vocab, num_tokens = actor.architecture.vocab_size, 5 + 9 + 3 + 1 + 17
    op = import_module("megaent.ops.linear_logprob_entropy")
    monkeypatch.setattr(op, "columns_per_tile", lambda *_, **__: TILE)
    with Products(vocab) as scoring:
        scored = actor.score(batch(), temperature=1.0)
    method = build_method({"grpo": {}}).phases[0].method
    terms, _ = estimate(method, seen(scored, population=actor.layout))
    with Products(vocab) as training:
        actor.update(scored, terms, method.loss, temperature=1.0, num_minibatches=1)
    num_tiles = vocab // TILE
    assert sum(scoring.rows) == num_tiles * num_tokens
    assert sum(training.rows) == 2 * num_tiles * num_tokens, "formed again in the backward pass"
    assert not scoring.has_whole_rows
    assert not training.has_whole_rows
