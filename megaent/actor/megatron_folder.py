"""A model in Megatron's distributed checkpoint format, written and read one piece at a time by one process.

Megatron stacks the layers: one key holds a parameter of every layer, ``[num_layers, ...]``, of every expert
``[num_layers, experts, ...]``, and files hold
rectangular chunks of it. What is written here is what a run of one process would write, a chunk a layer;
Megatron cuts and joins chunks when it loads, so every layout reads it. Read here is what any layout wrote.

Neither a model nor a process group is built, and no state dict exists: torch's storage layer asks for one
item after the other, and each is made when it is asked for.
"""

from __future__ import annotations

import io
import itertools
import math
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from megaent.actor.convert import FUSED_NAMES, Piece, pieces, to_shard
from megaent.actor.state import check_pickles
from megaent.errors import CheckpointError
from megaent.model_folder.architecture import Architecture
from megaent.model_folder.contents import expected_shapes

# ---------------------------------------------------------------- where a piece lies


def hf_shapes(piece: Piece, architecture: Architecture) -> tuple[tuple[int, ...], ...]:
    """The shapes that a piece's Hugging Face tensors have by the configuration."""
    shapes = _shapes(architecture)
    return tuple(shapes[name] for name in piece.hf_names)


@lru_cache(maxsize=8)
def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    return expected_shapes(architecture)


def _shape(piece: Piece, architecture: Architecture) -> tuple[int, ...]:
    """Of the whole Megatron parameter."""
    parts = tuple(torch.empty(shape, device="meta") for shape in hf_shapes(piece, architecture))
    return tuple(to_shard(piece, parts, architecture, tp=1, tp_rank=0).shape)


def model_bytes(architecture: Architecture, dtype: torch.dtype) -> int:
    return sum(math.prod(_shape(piece, architecture)) for piece in pieces(architecture)) * dtype.itemsize


def _key(piece: Piece) -> str:
    """Megatron's name in a checkpoint: without the layer, norms under Transformer Engine's fused names."""
    if piece.layer is None:
        return piece.parameter
    name = piece.parameter.removeprefix(f"decoder.layers.{piece.layer}.")
    name = name.replace(f".local_experts.{piece.expert}.", ".experts.")
    return "decoder.layers." + FUSED_NAMES.get(name, name)


def _extra_state(piece: Piece, architecture: Architecture) -> str | None:
    """The key under which Megatron looks for a module's state besides weights, which only FP8 has."""
    if piece.kind == "vocab" or piece.parameter.endswith("router.weight"):
        return None
    place, stack = _stack(piece, architecture)
    shard = f"{'.'.join(map(str, place))}_{'.'.join(map(str, stack))}" if stack else "0_1"
    return f"{_key(piece).rpartition('.')[0]}._extra_state/shard_{shard}"


def _stack(piece: Piece, architecture: Architecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the piece stands among the layers, and the experts of its layer; and how many these are."""
    if piece.layer is None:
        return (), ()
    if piece.expert is None:
        return (piece.layer,), (architecture.num_layers,)
    assert architecture.experts is not None, f"{piece.parameter} in a model without experts"
    return (piece.layer, piece.expert), (architecture.num_layers, architecture.experts.count)


def _item(piece: Piece, architecture: Architecture, dtype: torch.dtype) -> WriteItem:
    shape = _shape(piece, architecture)
    place, stack = _stack(piece, architecture)
    whole, sizes = (*stack, *shape), (*(1 for _ in stack), *shape)
    offsets = (*place, *(0 for _ in shape))
    chunk = ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
    data = TensorWriteData(chunk=chunk, properties=TensorProperties(dtype=dtype), size=torch.Size(whole))
    index = MetadataIndex(_key(piece), chunk.offsets)
    return WriteItem(index=index, type=WriteItemType.SHARD, tensor_data=data)


# ---------------------------------------------------------------- writing


class _OnDemand(DefaultSavePlanner):
    """Makes each item when it is to be written."""

    def __init__(self, places: dict[MetadataIndex, Piece], read: Callable[[Piece], Tensor]) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._places, self._read = places, read

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        if write_item.type is WriteItemType.BYTE_IO:
            empty = io.BytesIO()
            torch.save([None], empty)
            return empty
        assert write_item.tensor_data is not None, f"{write_item.index.fqn} has no size"
        return self._read(self._places[write_item.index]).reshape(write_item.tensor_data.chunk.sizes)


def write_pieces(
    folder: Path, architecture: Architecture, dtype: torch.dtype, read: Callable[[Piece], Tensor]
) -> None:
    """Write a model into ``folder``, a file a layer; ``read`` gives one whole Megatron parameter."""
    places: dict[MetadataIndex, Piece] = {}
    plans = []
    # The storage layer keeps what it writes until a file is full, so a file is one layer.
    for _, group in itertools.groupby(pieces(architecture), key=lambda piece: piece.layer):
        layer = list(group)
        items = {piece: _item(piece, architecture, dtype) for piece in layer}
        places |= {item.index: piece for piece, item in items.items()}
        states = dict.fromkeys(key for piece in layer if (key := _extra_state(piece, architecture)))
        empty = [WriteItem(index=MetadataIndex(key), type=WriteItemType.BYTE_IO) for key in states]
        plans.append(SavePlan([*empty, *items.values()]))
    planner = _OnDemand(places, read)
    plans, metadata = planner.create_global_plan(plans)
    # 0 keeps torch from copying ahead on a machine with CUDA: it would order the items by their size.
    writer = FileSystemWriter(folder, per_thread_copy_ahead=0)
    writer.set_up_storage_writer(is_coordinator=True)
    results = [
        writer.write_data(writer.prepare_local_plan(plan), planner).wait()
        for plan in writer.prepare_global_plan(plans)
    ]
    writer.finish(metadata, results)
    torch.save({}, folder / "common.pt")
    save_config(CheckpointingConfig("torch_dist"), str(folder))


# ---------------------------------------------------------------- reading


class _Into(DefaultLoadPlanner):
    """Reads into one tensor, whatever its place in the stack of layers."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self._target = target

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self._target


def open_pieces(folder: Path, architecture: Architecture) -> Callable[[Piece], Tensor]:
    """A function from a piece to its whole Megatron parameter, saved under whatever layout.

    Raises CheckpointError, then or when it is called, for a folder that is no checkpoint, is damaged, names
    a type outside the allow-list, or is of another model.
    """
    if not (folder / ".metadata").is_file():
        raise CheckpointError(f"{folder} has no .metadata, so is no Megatron checkpoint; give another source")
    check_pickles(folder)
    reader = FileSystemReader(folder)
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, is_coordinator=True)

    def read(piece: Piece) -> Tensor:
        key = _key(piece)
        found = metadata.state_dict_metadata.get(key)
        if not isinstance(found, TensorStorageMetadata):
            raise CheckpointError(f"{folder} has no {key}; it is not of the model that config.json describes")
        wanted = _item(piece, architecture, found.properties.dtype).tensor_data
        assert wanted is not None, f"{key} has no size"
        if found.size != wanted.size:
            raise CheckpointError(
                f"{folder} holds {key} as {list(found.size)}, config.json needs {list(wanted.size)}; it is "
                "of another model"
            )
        target = torch.empty(wanted.chunk.sizes, dtype=found.properties.dtype)
        parts = create_read_items_for_chunk_list(key, found, [wanted.chunk])
        if sum(math.prod(part.lengths) for part in parts) != target.numel():
            raise CheckpointError(f"{folder} holds {piece.parameter} in part; use an earlier checkpoint")
        _read_parts(reader, parts, target, piece)
        return target.view(_shape(piece, architecture))

    return read


def _read_parts(reader: FileSystemReader, parts: list[ReadItem], target: Tensor, piece: Piece) -> None:
    try:
        reader.read_data(LoadPlan(parts), _Into(target)).wait()
    except (OSError, RuntimeError, AssertionError, KeyError, EOFError, pickle.UnpicklingError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(
            f"{piece.parameter} cannot be read from {reader.path}: {first}; use an earlier checkpoint"
        ) from error
