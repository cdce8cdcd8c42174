"""Where this process stands in the parallel layout, and the few collectives the loop needs.

Megatron's names are kept. A *replica* is one whole copy of the model: its tensor x context x
pipeline ranks. The *leader* of a replica (tensor rank 0, context rank 0, pipeline rank 0) talks to
the rollout engine; its peers receive what it got.
"""

from __future__ import annotations

import os
import pickle
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor
from torch.distributed import ProcessGroup

from megaent.actor import megatron_cpu
from megaent.actor.gloo_groups import one_for_all_roles
from megaent.actor.sizes import Sizes, world_size
from megaent.errors import ConfigError
from megaent.types import Shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes, ranks and groups of this process."""

    rank: int
    world_size: int
    sizes: Sizes
    dp: int
    dp_rank: int
    device: torch.device
    replica_group: ProcessGroup  # every rank of this copy of the model
    replica_leader: int  # global rank of its leader

    def __str__(self) -> str:
        return f"{self.sizes} DP{self.dp} on {self.device.type}"

    @property
    def is_leader(self) -> bool:
        return self.rank == self.replica_leader

    @property
    def is_last_stage(self) -> bool:
        return parallel_state.is_pipeline_last_stage(ignore_virtual=True)

    @property
    def dp_group(self) -> ProcessGroup:
        """One rank of each replica: nothing is counted twice."""
        return parallel_state.get_data_parallel_group()

    @property
    def dp_cp_group(self) -> ProcessGroup:
        return parallel_state.get_data_parallel_group(with_context_parallel=True)

    @property
    def cp_group(self) -> ProcessGroup:
        return parallel_state.get_context_parallel_group()

    @property
    def tp_group(self) -> ProcessGroup:
        return parallel_state.get_tensor_model_parallel_group()

    @property
    def ep_group(self) -> ProcessGroup:
        """Ranks that hold different experts of the same layers."""
        return parallel_state.get_expert_model_parallel_group()

    @property
    def etp_group(self) -> ProcessGroup:
        """Ranks that hold parts of the same experts."""
        return parallel_state.get_expert_tensor_parallel_group()

    @property
    def pp_group(self) -> ProcessGroup:
        return parallel_state.get_pipeline_model_parallel_group()

    def from_last_stage(self, tensor: Tensor) -> Tensor:
        """The last pipeline stage's ``tensor`` on every stage, in place."""
        if self.sizes.pp > 1:
            last = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast(tensor, src=last, group=self.pp_group)
        return tensor

    def sum(self, value: Tensor) -> Tensor:
        """Over the replicas, each counted once: with ``max`` the population a method is handed."""
        return self._reduce(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        return self._reduce(value, dist.ReduceOp.MAX)

    def _reduce(self, value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.dp == 1:
            return value
        reduced = value.to(self.device, copy=True)
        dist.all_reduce(reduced, op=operation, group=self.dp_group)
        return reduced.to(value.device)

    def from_rank_0(self, value: Shared | None) -> Shared:
        """Rank 0's ``value`` on every rank."""
        boxed = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(boxed, src=0)
        return boxed[0]  # type: ignore[return-value]

    def gather_everywhere(self, value: Shared) -> list[Shared]:
        """Every rank's ``value`` in rank order; for small things only."""
        parts: list[Shared] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(parts, value)
        return parts

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def gather_over_replicas(self, values: list[Shared]) -> list[Shared]:
        """The replicas' lists joined in data-parallel order; for a few numbers a prompt, not for tokens."""
        if self.dp == 1:
            return values
        parts: list[list[Shared]] = [[] for _ in range(self.dp)]
        dist.all_gather_object(parts, values, group=self.dp_group)
        return [value for part in parts for value in part]

    def exchange(self, parts: list[list[Shared]]) -> list[Shared]:
        """Among leaders: ``parts[r]`` to replica r; what every replica had for this one, in their order.

        Nobody sees what is not for him: two all-to-alls, of sizes and of bytes.
        """
        if self.dp == 1:
            return parts[0]
        sent = [torch.frombuffer(bytearray(pickle.dumps(part)), dtype=torch.uint8) for part in parts]
        size = torch.tensor([len(part) for part in sent], device=self.device)
        theirs = torch.empty_like(size)
        dist.all_to_all_single(theirs, size, group=self.dp_group)
        received = torch.empty(int(theirs.sum()), dtype=torch.uint8, device=self.device)
        dist.all_to_all_single(
            received, torch.cat(sent).to(self.device), theirs.tolist(), size.tolist(), group=self.dp_group
        )
        parts_received = received.cpu().split(theirs.tolist())
        return [value for part in parts_received for value in pickle.loads(part.numpy().tobytes())]

    def share(self, value: Shared | None) -> Shared:
        """The leader's ``value`` on every rank of its replica; the others pass None."""
        if self.replica_group.size() == 1:
            return value  # type: ignore[return-value]
        boxed = [value]
        dist.broadcast_object_list(boxed, src=self.replica_leader, group=self.replica_group)
        return boxed[0]  # type: ignore[return-value]


class ContextParallel:
    """The ranks that hold parts of the same responses; what a loss sums over within one microbatch.

    With several ranks every one of them must ask for the same things; all run the same microbatches.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def sum(self, value: Tensor) -> Tensor:
        return self._reduce(value, dist.ReduceOp.SUM)

    def max(self, value: Tensor) -> Tensor:
        return self._reduce(value, dist.ReduceOp.MAX)

    def _reduce(self, value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self._layout.sizes.cp == 1:
            return value
        reduced = value.clone()
        dist.all_reduce(reduced, op=operation, group=self._layout.cp_group)
        return reduced


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where torch finds it. Raises ConfigError for cuda without CUDA."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device=cuda, but torch finds no CUDA device; use device=cpu or device=auto")
    if name == "cpu" and torch.cuda.is_available():
        raise ConfigError(
            "device=cpu on a machine with CUDA: megatron-core would still allocate on the card; "
            "hide it with CUDA_VISIBLE_DEVICES= in the environment"
        )
    is_cuda = name != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if is_cuda else torch.device("cpu")


def init_parallel(sizes: Sizes, *, device: torch.device, timeout_s: float, seed: int) -> Layout:
    """Join the process group torchrun describes (or one of a single process) and lay Megatron's groups."""
    if device.type == "cpu":
        megatron_cpu.adapt()
    else:
        torch.cuda.set_device(device)
    size = world_size()
    sizes.check_world(size)
    _init_process_group(size, device, timeout_s)
    with one_for_all_roles() if device.type == "cpu" else nullcontext():
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=sizes.tp,
            pipeline_model_parallel_size=sizes.pp,
            virtual_pipeline_model_parallel_size=sizes.vpp,
            context_parallel_size=sizes.cp,
            expert_model_parallel_size=sizes.ep,
            expert_tensor_parallel_size=sizes.etp,
            distributed_timeout_minutes=timeout_s / 60,  # type: ignore[arg-type] - into a timedelta
        )
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    dp_rank = parallel_state.get_data_parallel_rank()
    group, leader = _replica(dp_rank, size, timeout_s)
    return Layout(
        rank=dist.get_rank(),
        world_size=size,
        sizes=sizes,
        dp=parallel_state.get_data_parallel_world_size(),
        dp_rank=dp_rank,
        device=device,
        replica_group=group,
        replica_leader=leader,
    )


def _init_process_group(size: int, device: torch.device, timeout_s: float) -> None:
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=timeout_s)
    if size == 1 and "MASTER_ADDR" not in os.environ:
        store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout)


def _replica(dp_rank: int, size: int, timeout_s: float) -> tuple[ProcessGroup, int]:
    """The group of ranks that share ``dp_rank``, and its first rank, which is its leader."""
    dp_ranks: list[int] = [0] * size
    dist.all_gather_object(dp_ranks, dp_rank)
    mine = None
    for value in sorted(set(dp_ranks)):
        members = [rank for rank in range(size) if dp_ranks[rank] == value]
        group = dist.new_group(members, timeout=timedelta(seconds=timeout_s))
        if value == dp_rank:
            mine = (group, members[0])
    assert mine is not None, f"rank {dist.get_rank()} has no replica"
    return mine


def close_parallel() -> None:
    """Leave every group; harmless where none was joined."""
    if parallel_state.is_initialized():
        parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
