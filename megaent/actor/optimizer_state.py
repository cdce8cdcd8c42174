"""The optimizer's state in a checkpoint: of one form, whichever of Megatron's optimizers holds it.

A moment is stored under ``optimizer.state.<moment>.<weight>`` in the weight's shape. The distributed
optimizer holds flat pieces of weights; such a piece is a few boxes of the tensor, and boxes are what the
format stores. So every rank writes and reads what it holds and no more, in the weights' own precision, and a
checkpoint does not tell how many replicas wrote it. Megatron's own ``fully_reshardable`` form gathers all
pieces on every rank, in fp32, and its loader wants of torch's AdamW a ``step`` for each tensor, which no
checkpoint has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, MegatronOptimizer
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "fp32_param"  # of a weight of lower precision

Pieces = dict[int, dict[str, list[ShardedTensor]]]


def parts(optimizer: MegatronOptimizer) -> list[MegatronOptimizer]:
    """Megatron chains one for dense weights and one for experts, and may leave one without weights."""
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    return [part for part in chained if not getattr(part, "is_stub_optimizer", False)]


def sharded_moments(optimizer: MegatronOptimizer, weights: dict, *, is_loading: bool) -> Pieces:
    """What this rank holds, by number of the weight; ``weights`` is the models' sharded state dict.

    Before the first step there are no moments to save; ``is_loading`` makes room for them.
    """
    if is_loading:
        for part in parts(optimizer):
            part.init_state_fn(part.optimizer, part.config)
    shards, _ = extract_sharded_tensors_and_factories(weights)
    by_weight = {shard.data: shard for shard in nested_values(shards)}
    return {
        number: {name: _pieces(held, by_weight[held.weight], name, value) for name, value in held.values()}
        for number, held in enumerate(_held(optimizer))
    }


@torch.no_grad()
def take_moments(optimizer: MegatronOptimizer, loaded: dict[int, dict[str, list[Tensor]]]) -> None:
    """Fill the optimizer with the tensors that were read for ``sharded_moments(…, is_loading=True)``."""
    for number, held in enumerate(_held(optimizer)):
        for name, value in held.values():
            pieces = [piece.flatten() for piece in loaded[number][name]]
            value.view(-1).copy_(torch.cat(pieces))


# ---------------------------------------------------------------- steps


def adam_step(optimizer: MegatronOptimizer) -> int:
    """Steps taken, by which Adam corrects its moments; torch counts for each tensor, others for a group."""
    inner = [part.optimizer for part in parts(optimizer)]
    states = [*(s for i in inner for s in i.state.values()), *(g for i in inner for g in i.param_groups)]
    found = {int(state["step"]) for state in states if "step" in state}
    assert len(found) <= 1, f"all weights are stepped together, and have taken {sorted(found)} steps"
    return found.pop() if found else 0


def set_adam_step(optimizer: MegatronOptimizer, step: int) -> None:
    """A tensor of its own for every weight: torch adds 1 to each."""
    for part in parts(optimizer):
        is_of_torch = isinstance(part.optimizer, torch.optim.AdamW)
        for state in part.optimizer.state.values() if is_of_torch else ():
            state["step"] = torch.tensor(float(step))
        for group in () if is_of_torch else part.optimizer.param_groups:
            group["step"] = step


# ---------------------------------------------------------------- what a rank holds


class _Held(NamedTuple):
    weight: Tensor  # the model's
    main: Tensor  # what is stepped: the weight, a flat piece of it, or a copy in fp32 of either
    start: int  # element of the weight at which ``main`` begins
    moments: dict[str, Tensor]
    is_shared_out: bool  # over the replicas, instead of held by each

    def values(self) -> Iterator[tuple[str, Tensor]]:
        if self.main.dtype != self.weight.dtype:
            yield MASTER, self.main
        for name in MOMENTS:
            if name in self.moments:
                yield name, self.moments[name]


def _held(optimizer: MegatronOptimizer) -> Iterator[_Held]:
    for part in parts(optimizer):
        is_shared_out = isinstance(part, DistributedOptimizer)
        for weight, main, start in _flat(part) if is_shared_out else _whole(part):
            yield _Held(weight, main, start, part.optimizer.state.get(main, {}), is_shared_out)


def _flat(part: DistributedOptimizer) -> Iterator[tuple[Tensor, Tensor, int]]:
    for weight, (group, place) in part.model_param_group_index_map.items():
        main = part.optimizer.param_groups[group]["params"][place]
        yield weight, main, part._get_model_param_range_map(weight)["param"].start


def _whole(part: MegatronOptimizer) -> Iterator[tuple[Tensor, Tensor, int]]:
    mains = [main for group in part.optimizer.param_groups for main in group["params"]]
    weight_of = {}
    if isinstance(part, Float16OptimizerWithFloat16Params):
        for weights, copies in zip(part.float16_groups, part.fp32_from_float16_groups, strict=True):
            weight_of |= dict(zip(copies, weights, strict=True))
    yield from ((weight_of.get(main, main), main, 0) for main in mains)


def _pieces(
    held: _Held, shard: ShardedTensor | ShardedTensorFactory, name: str, value: Tensor
) -> list[ShardedTensor]:
    """``value``, of elements of the weight from ``held.start`` on, as boxes of whole tensors, in order."""
    leaves = [shard] if isinstance(shard, ShardedTensor) else list(nested_values(shard.build()))
    found, flat = [], value.view(-1)
    for leaf in leaves:
        first = leaf.data.storage_offset() - held.weight.storage_offset() - held.start
        start, stop = max(-first, 0), min(flat.numel() - first, leaf.data.numel())
        for offset, size in boxes(start, stop, leaf.local_shape):
            data = flat[first + start : first + start + math.prod(size)].view(size)
            start += data.numel()
            found.append(_box(leaf, f"optimizer.state.{name}.{leaf.key}", data, offset, held.is_shared_out))
    return found


def _box(
    leaf: ShardedTensor, key: str, data: Tensor, offset: tuple[int, ...], is_only: bool
) -> ShardedTensor:
    """Of the tensor that ``leaf`` is a part of; ``is_only``: no other replica has it."""
    prepended = leaf.prepend_axis_num  # layers or experts that the format stacks
    local = data.view((1,) * prepended + data.shape)
    within = (0,) * prepended + offset
    return replace(
        leaf,
        key=key,
        data=local,
        dtype=local.dtype,
        local_shape=tuple(local.shape),
        global_offset=tuple(a + b for a, b in zip(leaf.global_offset, within, strict=True)),
        axis_fragmentations=None,  # boxes of different sizes
        prepend_axis_num=0,
        replica_id=(*leaf.replica_id[:2], 0) if is_only else leaf.replica_id,  # type: ignore[index]
    )


Box = tuple[tuple[int, ...], tuple[int, ...]]  # its offset in the tensor, and its size


def boxes(start: int, stop: int, shape: tuple[int, ...]) -> Iterator[Box]:
    """The elements [start, stop) of a tensor of ``shape`` in row-major order, as boxes in that order."""
    if start >= stop:
        return
    if len(shape) == 1:
        yield (start,), (stop - start,)
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # the whole rows between
    if first > last:
        yield from _in_row(last, start, stop, shape)
        return
    yield from _in_row(first - 1, start, first * row, shape)
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    yield from _in_row(last, last * row, stop, shape)


def _in_row(number: int, start: int, stop: int, shape: tuple[int, ...]) -> Iterator[Box]:
    before = number * math.prod(shape[1:])
    for offset, size in boxes(start - before, stop - before, shape[1:]):
        yield (number, *offset), (1, *size)
