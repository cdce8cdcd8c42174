"""Pieces and shards against row-by-row indexing, and the actor's log-probs against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_hf import save_tiny
from transformers import AutoModelForCausalLM

from megaent.actor.convert import Piece, from_shards, pieces, to_shard
from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.megatron_folder import hf_shapes
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.experience.pack import pack
from megaent.model_folder.architecture import Architecture
from megaent.model_folder.rotary import Rotary
from megaent.types import Grade, Group, Prompt, Response

pytestmark = pytest.mark.full

VOCAB = 97


def architecture(family: str, *, tie: bool = False, vocab_size: int = VOCAB) -> Architecture:
    """Eight query heads on four key/value heads of another width than hidden / heads."""
    return Architecture(
        family=family,
        num_layers=2,
        hidden_size=20,
        intermediate_size=24,
        num_heads=8,
        num_kv_heads=4,
        head_dim=6,
        vocab_size=vocab_size,
        rotary=Rotary(),
        rms_norm_eps=1e-6,
        max_positions=64,
        tie_embeddings=tie,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


def random_tensors(piece: Piece, model: Architecture, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    noise = torch.Generator().manual_seed(3)
    return tuple(torch.randn(shape, generator=noise).to(dtype) for shape in hf_shapes(piece, model))


def shards(
    piece: Piece, tensors: tuple[torch.Tensor, ...], model: Architecture, tp: int
) -> list[torch.Tensor]:
    return [to_shard(piece, tensors, model, tp=tp, tp_rank=rank) for rank in range(tp)]


def rows_of_rank(
    piece: Piece, tensors: tuple[torch.Tensor, ...], model: Architecture, tp: int, rank: int
) -> list:
    """What a rank holds, row by row, as Megatron lays its parameters out."""
    if piece.kind == "vocab":
        rows = [*tensors[0], *[torch.zeros(model.hidden_size)] * (128 - model.vocab_size)]
        return rows[rank * 128 // tp : (rank + 1) * 128 // tp]
    if piece.kind == "row":
        width = tensors[0].shape[1] // tp
        return [row[rank * width : (rank + 1) * width] for row in tensors[0]]
    if piece.kind == "gate_up":
        count = model.intermediate_size // tp
        return [part[rank * count + i] for part in tensors for i in range(count)]
    if piece.kind == "qkv":
        width, share = model.head_dim, model.num_heads // model.num_kv_heads
        mine = range(rank * model.num_kv_heads // tp, (rank + 1) * model.num_kv_heads // tp)
        query, key, value = tensors
        return [
            part[(head * count + i) * width + j]
            for head in mine
            for part, count in ((query, share), (key, 1), (value, 1))
            for i in range(count)
            for j in range(width)
        ]
    assert piece.kind == "whole"
    return list(tensors[0])


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_a_shard_holds_the_rows_megatron_expects(family: str, tp: int) -> None:
    model = architecture(family)
    for piece in pieces(model):
        tensors = random_tensors(piece, model, torch.float32)
        for rank, shard in enumerate(shards(piece, tensors, model, tp)):
            assert torch.equal(shard, torch.stack(rows_of_rank(piece, tensors, model, tp, rank))), piece


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_there_and_back_changes_no_bit(family: str, tp: int, dtype: torch.dtype) -> None:
    model = architecture(family)
    for piece in pieces(model):
        tensors = random_tensors(piece, model, dtype)
        back = from_shards(piece, shards(piece, tensors, model, tp), model)
        assert len(back) == len(tensors)
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(back, tensors, strict=True)), (
            piece
        )


@pytest.mark.parametrize(("vocab_size", "padded"), [(1, 128), (97, 128), (128, 128), (129, 256)])
def test_padding_depends_on_the_vocabulary_alone(vocab_size: int, padded: int) -> None:
    model = architecture("llama", vocab_size=vocab_size)
    embedding = next(pieces(model))
    tensors = random_tensors(embedding, model, torch.float32)
    for tp in (1, 2, 4):
        whole = torch.cat(shards(embedding, tensors, model, tp))
        assert whole.shape[0] == padded
        assert torch.equal(whole[vocab_size:], torch.zeros(padded - vocab_size, model.hidden_size))


@pytest.mark.parametrize(("tie", "expected"), [(True, False), (False, True)])
def test_a_tied_model_has_no_output_layer(tie: bool, expected: bool) -> None:
    names = [piece.parameter for piece in pieces(architecture("qwen2", tie=tie))]
    assert ("output_layer.weight" in names) is expected


# ---------------------------------------------------------------- against transformers

MODELS = {
    "qwen2_tied": {"family": "qwen2", "tie": True},
    "qwen2_untied": {"family": "qwen2", "tie": False},
    "qwen3": {"family": "qwen3", "tie": False, "head_dim": 32},
    "qwen3_tied": {"family": "qwen3", "tie": True, "head_dim": 32},
    "llama": {"family": "llama", "tie": False},
}


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp(request.param)
    return save_tiny(root / "hf", vocab_size=VOCAB, **MODELS[request.param])


@pytest.mark.both
def test_log_probs_equal_those_of_transformers(folder: Path, layout: Layout) -> None:
    noise = torch.Generator().manual_seed(2)
    prompt, response = torch.randint(0, VOCAB, (2, 16), generator=noise).tolist()
    graded = Response(tokens=tuple(response), log_prob=(-1.0,) * 16, finish="stop", version=0)
    group = Group(
        index=0,
        prompt=Prompt(id="0", tokens=tuple(prompt), text="", answer=""),
        responses=(graded,),
        grades=(Grade(reward=1.0, correct=True),),
    )
    actor = MegatronActor(folder, layout, ActorOptions(), AdamOptions(lr=1e-3))
    found = actor.score(pack([group]), temperature=1.0).log_prob_old
    assert found is not None

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, 15:31]
    log_p = torch.log_softmax(logits.double(), dim=1)
    truth = log_p.gather(1, torch.tensor(response)[:, None])[:, 0]
    assert float((found - truth).abs().max()) <= 1e-5
    # Large enough weights that a wrong head order or a lost bias would show.
    assert float(truth.std()) > 0.2


def test_exported_weights_are_the_imported_ones(folder: Path, layout: Layout) -> None:
    actor = MegatronActor(folder, layout, ActorOptions(), AdamOptions(lr=1e-3))
    exported = dict(actor.named_weights())
    given = load_file(folder / "model.safetensors")
    assert exported.keys() == given.keys()
    assert all(torch.equal(exported[name], value) for name, value in given.items())
