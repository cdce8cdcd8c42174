"""On a CPU the groups that Megatron lays over the same ranks are one.

Megatron makes a process group for every role: two dozen in a process, nearly all of them over the same few
ranks. Under NCCL each has streams of its own. Under gloo each has three threads, one of which wakes a
hundred times a second whether there is something to do or not. Operations on one group keep the order in
which they are asked for, which is the same on all of its ranks, so that roles can share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from megatron.core import parallel_state
from torch.distributed import ProcessGroup


@contextmanager
def one_for_all_roles() -> Iterator[None]:
    """While Megatron lays its groups on a CPU; every rank asks for the same groups in the same order."""
    plain, made = parallel_state.create_group, dict[tuple[int, ...], ProcessGroup]()

    def create_group(ranks: Sequence[int], *args: Any, **kwargs: Any) -> ProcessGroup:
        key = tuple(ranks)
        if key not in made:
            made[key] = plain(ranks, *args, **kwargs)
        return made[key]

    parallel_state.create_group = create_group
    try:
        yield
    finally:
        parallel_state.create_group = plain
