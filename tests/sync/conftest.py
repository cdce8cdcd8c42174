"""A model's weights as the actor publishes them, and servers to publish them to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.weight_server import WeightServer
from torch import Tensor

from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.sync.broadcast import BroadcastTransport
from megaent.sync.sender import SenderOptions, ServerSender

SHAPES = {
    "model.embed_tokens.weight": (70, 8),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.self_attn.q_proj.bias": (8,),
    "model.layers.0.self_attn.k_proj.bias": (4,),
    "model.layers.0.self_attn.v_proj.bias": (4,),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.post_attention_layernorm.weight": (8,),
    "model.layers.0.mlp.gate_proj.weight": (20, 8),
    "model.layers.0.mlp.up_proj.weight": (20, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 20),
    "model.norm.weight": (8,),
}


@pytest.fixture
def weights() -> Callable[..., dict[str, Tensor]]:
    """``weights(seed)``, in the order of publication; keywords replace tensors (dots as two underscores)."""

    def make(seed: int, **replaced: Tensor) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        made = {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}
        return made | {name.replace("__", "."): tensor for name, tensor in replaced.items()}

    return make


@pytest.fixture
def start_server() -> Iterator[Callable[..., WeightServer]]:
    started: list[WeightServer] = []

    def start(**options: bool) -> WeightServer:
        started.append(WeightServer(SHAPES, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def control() -> Iterator[Control]:
    connections = Connections()
    yield Control(connections, timeout_s=20.0)
    connections.close()


@pytest.fixture
def make_sender(control: Control) -> Iterator[Callable[..., ServerSender]]:
    """A sender by broadcast with small buckets; keywords are those of SenderOptions."""
    made: list[ServerSender] = []

    def make(*, timeout_s: float = 20.0, servers_per_group: int = 1, **options: object) -> ServerSender:
        transport = BroadcastTransport(
            control, backend="gloo", servers_per_group=servers_per_group, timeout_s=timeout_s
        )
        chosen = {"dtype": torch.float32, "device": "cpu", "bucket_bytes": 700} | options
        made.append(ServerSender(control, transport, SenderOptions(**chosen)))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture
def sync_folder(tmp_path: Path) -> Path:
    return tmp_path / "sync"
