"""Hugging Face weights to Megatron shards and back, one tensor at a time.

A *piece* is one Megatron parameter and the Hugging Face tensors it is made of. Five kinds of
sharding cover Qwen2, Qwen3, Llama and Mixtral; an expert's pieces are split over its own tensor ranks:

    vocab       rows split over tensor ranks, padded to a multiple of 128
    column      rows split          row         columns split          whole    on every rank
    qkv         per key/value head [its query heads | key | value], split by key/value head
    gate_up     each rank holds [its rows of gate | its rows of up]

Nothing is added, rounded or dropped: there and back is bit-exact, padding rows being 0 and stripped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup

from megaent.actor.model import PolicyModel
from megaent.actor.parallel import Layout
from megaent.errors import ModelError
from megaent.model_folder.architecture import Architecture
from megaent.model_folder.experts import NAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    parameter: str  # Megatron's name, layers counted over the whole model
    hf_names: tuple[str, ...]
    kind: str
    layer: int | None = None  # None outside the layers
    expert: int | None = None  # of its layer; only the expert rank that has it holds the piece


def pieces(architecture: Architecture) -> Iterator[Piece]:
    """Every piece of the model, in the order in which weights are published."""
    yield Piece(
        parameter="embedding.word_embeddings.weight", hf_names=("model.embed_tokens.weight",), kind="vocab"
    )
    for layer in range(architecture.num_layers):
        yield from _layer_pieces(architecture, layer)
    yield Piece(parameter="decoder.final_layernorm.weight", hf_names=("model.norm.weight",), kind="whole")
    if not architecture.tie_embeddings:
        yield Piece(parameter="output_layer.weight", hf_names=("lm_head.weight",), kind="vocab")


def _layer_pieces(architecture: Architecture, layer: int) -> Iterator[Piece]:
    here, there = f"decoder.layers.{layer}.", f"model.layers.{layer}."

    def piece(parameter: str, kind: str, *names: str, expert: int | None = None) -> Piece:
        hf_names = tuple(there + name for name in names)
        return Piece(parameter=here + parameter, hf_names=hf_names, kind=kind, layer=layer, expert=expert)

    qkv = ("self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj.")
    yield piece("input_layernorm.weight", "whole", "input_layernorm.weight")
    yield piece("self_attention.linear_qkv.weight", "qkv", *(name + "weight" for name in qkv))
    if architecture.qkv_bias:
        yield piece("self_attention.linear_qkv.bias", "qkv", *(name + "bias" for name in qkv))
    if architecture.qk_norm:
        yield piece("self_attention.q_layernorm.weight", "whole", "self_attn.q_norm.weight")
        yield piece("self_attention.k_layernorm.weight", "whole", "self_attn.k_norm.weight")
    yield piece("self_attention.linear_proj.weight", "row", "self_attn.o_proj.weight")
    yield piece("pre_mlp_layernorm.weight", "whole", "post_attention_layernorm.weight")
    if architecture.experts is None:
        yield piece("mlp.linear_fc1.weight", "gate_up", "mlp.gate_proj.weight", "mlp.up_proj.weight")
        yield piece("mlp.linear_fc2.weight", "row", "mlp.down_proj.weight")
        return
    names = NAMES[architecture.family]
    yield piece("mlp.router.weight", "whole", names.router())
    for expert in range(architecture.experts.count):
        gate, up, down = names.of(expert)
        yield piece(_expert(expert) + "linear_fc1.weight", "gate_up", gate, up, expert=expert)
        yield piece(_expert(expert) + "linear_fc2.weight", "row", down, expert=expert)


def _expert(number: int) -> str:
    return f"mlp.experts.local_experts.{number}."


# Transformer Engine fuses the norm in front of a linear layer into it.
FUSED_NAMES = {
    "input_layernorm.weight": "self_attention.linear_qkv.layer_norm_weight",
    "pre_mlp_layernorm.weight": "mlp.linear_fc1.layer_norm_weight",
}

# ---------------------------------------------------------------- one piece, one rank


def to_shard(
    piece: Piece, tensors: tuple[Tensor, ...], architecture: Architecture, *, tp: int, tp_rank: int
) -> Tensor:
    """This tensor rank's part of the Megatron parameter."""
    first = tensors[0]
    if piece.kind == "whole":
        return first
    if piece.kind == "row":
        return first.chunk(tp, 1)[tp_rank]
    if piece.kind == "gate_up":
        return torch.cat([tensor.chunk(tp)[tp_rank] for tensor in tensors])
    if piece.kind == "vocab":
        padding = architecture.padded_vocab_size - first.shape[0]
        return F.pad(first, (0, 0, 0, padding)).chunk(tp)[tp_rank]
    assert piece.kind == "qkv", f"unknown kind {piece.kind!r}"
    heads = architecture.num_kv_heads
    by_head = torch.cat([tensor.unflatten(0, (heads, -1)) for tensor in tensors], dim=1)
    return by_head.chunk(tp)[tp_rank].flatten(0, 1)


def from_shards(piece: Piece, shards: list[Tensor], architecture: Architecture) -> tuple[Tensor, ...]:
    """The Hugging Face tensors of a piece from the shards of all tensor ranks, in rank order."""
    if piece.kind == "whole":
        return (shards[0],)
    if piece.kind == "row":
        return (_joined(shards, dim=1),)
    if piece.kind == "gate_up":
        halves = [shard.chunk(2) for shard in shards]
        return tuple(_joined([half[i] for half in halves]) for i in range(2))
    joined = _joined(shards)
    if piece.kind == "vocab":
        return (joined[: architecture.vocab_size],)
    assert piece.kind == "qkv", f"unknown kind {piece.kind!r}"
    width = architecture.head_dim
    queries = architecture.num_heads // architecture.num_kv_heads * width
    by_head = joined.unflatten(0, (architecture.num_kv_heads, queries + 2 * width))
    return tuple(part.flatten(0, 1) for part in by_head.split([queries, width, width], dim=1))


def _joined(shards: list[Tensor], dim: int = 0) -> Tensor:
    """One shard is not copied."""
    return shards[0] if len(shards) == 1 else torch.cat(shards, dim)


# ---------------------------------------------------------------- this rank's model


def local_parameters(models: Iterable[PolicyModel], layout: Layout) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters under their names over the whole model (layers and experts counted from 0)."""
    found: dict[str, torch.nn.Parameter] = {}
    for model in models:
        first = model.decoder.layers[0].layer_number - 1 if len(model.decoder.layers) else 0
        for name, parameter in model.named_parameters():
            head, _, tail = name.partition("decoder.layers.")
            if tail and not head:
                number, _, rest = tail.partition(".")
                rest = _of_all_experts(rest, model, layout)
                name = f"decoder.layers.{int(number) + first}.{rest}"
            found[name] = parameter
    return found


def _of_all_experts(name: str, model: PolicyModel, layout: Layout) -> str:
    head, _, tail = name.partition("mlp.experts.local_experts.")
    if head or not tail:
        return name
    number, _, rest = tail.partition(".")
    assert model.config.num_moe_experts is not None, f"{name} in a model without experts"
    first = layout.ep_group.rank() * (model.config.num_moe_experts // layout.sizes.ep)
    return _expert(int(number) + first) + rest


def _lookup(parameters: dict[str, torch.nn.Parameter], name: str) -> torch.nn.Parameter | None:
    if name in parameters:
        return parameters[name]
    for plain, fused in FUSED_NAMES.items():
        if name.endswith(plain) and name[: -len(plain)] + fused in parameters:
            return parameters[name[: -len(plain)] + fused]
    return None


def load_weights(
    models: list[PolicyModel], architecture: Architecture, layout: Layout, read: Callable[[str], Tensor]
) -> None:
    """Fill this rank's shards; ``read`` gives one Hugging Face tensor by name.

    Raises ModelError when a shape differs or a parameter of ours is left without weights.
    """
    parameters = local_parameters(models, layout)
    for piece in _with_tied_output(architecture):
        parameter = _lookup(parameters, piece.parameter)
        if parameter is None:
            continue
        tensors = tuple(read(name) for name in piece.hf_names)
        if piece.kind == "vocab" and tensors[0].shape[0] != architecture.vocab_size:
            raise ModelError(
                f"{piece.hf_names[0]} has {tensors[0].shape[0]} rows, config.json says vocab_size "
                f"{architecture.vocab_size}; config.json and weights disagree"
            )
        group = _tensor_group(piece, layout)
        shard = to_shard(piece, tensors, architecture, tp=group.size(), tp_rank=group.rank())
        if shard.shape != parameter.shape:
            raise ModelError(
                f"{' + '.join(piece.hf_names)} give a shard of shape {list(shard.shape)}, "
                f"{piece.parameter} needs {list(parameter.shape)}; config.json and weights disagree"
            )
        parameter.data.copy_(shard)
        for name in [name for name, value in parameters.items() if value is parameter]:
            del parameters[name]
    if parameters:
        raise ModelError(f"no Hugging Face weights known for {', '.join(sorted(parameters))}")


def _with_tied_output(architecture: Architecture) -> Iterator[Piece]:
    """On a last stage apart from the first, a tied output layer is a copy of the embedding."""
    yield from pieces(architecture)
    if architecture.tie_embeddings:
        yield Piece(parameter="output_layer.weight", hf_names=("model.embed_tokens.weight",), kind="vocab")


@dataclass(frozen=True, slots=True)
class Owner:
    """Where a piece lives in the pipeline, known to every stage."""

    stage: int
    shape: tuple[int, ...]  # of one tensor rank's shard
    dtype: torch.dtype


def piece_owners(models: list[PolicyModel], architecture: Architecture, layout: Layout) -> dict[str, Owner]:
    """The owner of every piece, by Megatron name; one small exchange, done once. A collective."""
    parameters = local_parameters(models, layout)
    stage = layout.pp_group.rank()
    mine: dict[str, Owner] = {}
    for piece in pieces(architecture):
        parameter = _lookup(parameters, _like_it(piece, architecture, layout))
        if parameter is not None:
            mine[piece.parameter] = Owner(stage, tuple(parameter.shape), parameter.dtype)
    if layout.sizes.pp == 1:
        return mine
    stages: list[dict[str, Owner]] = [{} for _ in range(layout.sizes.pp)]
    dist.all_gather_object(stages, mine, group=layout.pp_group)
    return {name: owner for found in reversed(stages) for name, owner in found.items()}


def named_weights(
    models: list[PolicyModel], architecture: Architecture, layout: Layout, owners: dict[str, Owner]
) -> Iterator[tuple[str, Tensor]]:
    """Every Hugging Face tensor, whole, on every rank, one piece at a time. A collective.

    The stage that owns a piece gathers it over its tensor ranks and sends it along the pipeline. Nothing of a
    piece is held here once its last tensor was given out.
    """
    parameters = local_parameters(models, layout)
    for piece in pieces(architecture):
        parameter = _lookup(parameters, piece.parameter)
        holder = _expert_holder(piece, architecture, layout)
        owner = owners[piece.parameter]
        whole = [*from_shards(piece, _whole(piece, parameter, owner, layout, holder=holder), architecture)]
        for name in piece.hf_names:
            yield name, whole.pop(0)


def _tensor_group(piece: Piece, layout: Layout) -> ProcessGroup:
    return layout.tp_group if piece.expert is None else layout.etp_group


def _expert_holder(piece: Piece, architecture: Architecture, layout: Layout) -> int | None:
    """The expert rank that has the piece; None where every one has it."""
    if piece.expert is None or layout.sizes.ep == 1:
        return None
    assert architecture.experts is not None, f"{piece.parameter} in a model without experts"
    return piece.expert // (architecture.experts.count // layout.sizes.ep)


def _like_it(piece: Piece, architecture: Architecture, layout: Layout) -> str:
    """The parameter of this rank that has the piece's shape and stage: another expert's, if it must be."""
    if piece.expert is None or architecture.experts is None:
        return piece.parameter
    each = architecture.experts.count // layout.sizes.ep
    here = piece.expert % each + layout.ep_group.rank() * each
    return piece.parameter.replace(_expert(piece.expert), _expert(here))


def _whole(
    piece: Piece, parameter: Tensor | None, owner: Owner, layout: Layout, *, holder: int | None
) -> list[Tensor]:
    """All tensor ranks' shards of one piece, on every expert rank (``holder`` has it) and every stage."""
    group = _tensor_group(piece, layout)
    is_split = group.size() > 1 and piece.kind != "whole"
    count = group.size() if is_split else 1
    stacked = torch.empty((count, *owner.shape), dtype=owner.dtype, device=layout.device)
    if layout.pp_group.rank() == owner.stage:
        if holder in (None, layout.ep_group.rank()):
            assert parameter is not None, f"{piece.parameter} is missing on its own stage {owner.stage}"
            _gather(stacked, parameter.detach(), group if is_split else None)
        if holder is not None:
            source = dist.get_global_rank(layout.ep_group, holder)
            dist.broadcast(stacked, src=source, group=layout.ep_group)
    if layout.sizes.pp > 1:
        source = dist.get_global_rank(layout.pp_group, owner.stage)
        dist.broadcast(stacked, src=source, group=layout.pp_group)
    return list(stacked.unbind())


def _gather(stacked: Tensor, shard: Tensor, group: ProcessGroup | None) -> None:
    if group is None:
        stacked[0] = shard
    else:
        dist.all_gather(list(stacked.unbind()), shard.contiguous(), group=group)
