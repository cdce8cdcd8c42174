"""What a publication holds at once: two buckets, and one parameter on its way from the ranks that have it."""

from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.tiny_hf import save_tiny
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.sync.buckets import Bucketer

pytestmark = pytest.mark.full

MODELS = {
    "qwen3": {"family": "qwen3", "tie": False},
    "qwen3_moe": {"family": "qwen3_moe", "tie": False, "moe_intermediate_size": 48, "num_experts": 8,
                  "num_experts_per_tok": 3},
}  # fmt: skip


class LiveBytes(TorchDispatchMode):
    """Of the storages that came into being inside, as long as a tensor of them lives."""

    def __init__(self) -> None:
        super().__init__()
        self._tensors: Counter[int] = Counter()  # by where their storage begins
        self._sizes: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        before = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        for tensor in filter(torch.is_tensor, tree_leaves(out)):
            place = tensor.untyped_storage().data_ptr()
            if place in self._sizes or place not in before:
                self._sizes[place] = tensor.untyped_storage().nbytes()
                self._tensors[place] += 1
                weakref.finalize(tensor, self._forget, place)
        self.peak = max(self.peak, sum(self._sizes.values()))
        return out

    def _forget(self, place: int) -> None:
        self._tensors[place] -= 1
        if not self._tensors[place]:
            self._sizes.pop(place, None)


@pytest.fixture(scope="module", params=MODELS)
def actor(
    request: pytest.FixtureRequest, layout: Layout, tmp_path_factory: pytest.TempPathFactory
) -> MegatronActor:
    folder = save_tiny(tmp_path_factory.mktemp("model") / request.param, **MODELS[request.param])
    return MegatronActor(Path(folder), layout, ActorOptions(), AdamOptions(lr=1e-3))


@pytest.mark.parametrize("pieces_a_bucket", [2, 4])
def test_two_buckets_and_one_piece_are_held(actor: MegatronActor, pieces_a_bucket: int) -> None:
    """Which is there twice while it is split into its tensors: as it was gathered, and as they are called."""
    piece = max(p.numel() * p.element_size() for model in actor.models for p in model.parameters())
    bucket_bytes = pieces_a_bucket * piece
    with LiveBytes() as live:
        num_buckets = sum(1 for _ in Bucketer(bucket_bytes)(actor.named_weights()))
    assert num_buckets > 2
    assert live.peak == 2 * bucket_bytes + 2 * piece


def test_what_is_kept_is_counted(actor: MegatronActor) -> None:
    with LiveBytes() as live:
        kept = list(actor.named_weights())
    assert live.peak >= sum(tensor.numel() * tensor.element_size() for _, tensor in kept)
