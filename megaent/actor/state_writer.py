"""Megatron's distributed save, with every file written by threads of this process.

Megatron-Core 0.16 forks a process per file, and keeps one more for their results: one that is killed leaves
the trainer waiting for ever, and all of them outlive a trainer that is killed. The save is synchronous here,
so threads do the same work. 0.19 writes in threads itself; only its queue of results is a process.
"""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async

FORKING_WRITER = "write_preloaded_data_multiproc"


def save_in_this_process(state: dict, folder: Path) -> None:
    """``dist_checkpointing.save`` into an empty folder, and no process is started. A collective.

    Raises RuntimeError or torch's CheckpointException, on every rank, when one could not write.
    """
    filesystem_async._results_queue = queue.SimpleQueue()
    if not hasattr(filesystem_async.FileSystemWriterAsync, FORKING_WRITER):
        dist_checkpointing.save(state, str(folder))
        return
    request: Any = dist_checkpointing.save(state, str(folder), async_sharded_save=True)
    if request.async_fn is not None:  # None where this rank has nothing to write
        transforms = request.async_fn.args[0]
        request = request._replace(async_fn=partial(_write, transforms))
    request.execute_sync()


def _write(transforms: list, rank: int, buckets: list, results: queue.SimpleQueue) -> None:
    """What Megatron's own writer leaves in ``results``: what every bucket became, or the first failure."""
    with ThreadPoolExecutor(len(buckets), thread_name_prefix="checkpoint") as pool:
        written = list(pool.map(partial(_write_bucket, transforms), range(len(buckets)), buckets))
    failures = [outcome for outcome in written if isinstance(outcome, Exception)]
    results.put(failures[0] if failures else dict(enumerate(written)))


def _write_bucket(transforms: list, number: int, bucket: tuple) -> list | Exception:
    """One file, flushed to the disk."""
    result: queue.SimpleQueue = queue.SimpleQueue()
    unfinished: queue.Queue = queue.Queue()
    unfinished.put(number)
    filesystem_async.FileSystemWriterAsync.write_preloaded_data(
        transforms, number, bucket, result, unfinished, use_fsync=True
    )
    return result.get()[1]
