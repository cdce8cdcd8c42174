"""Buckets by reference: servers on the trainer's own cards read them where they lie (CUDA IPC).

SGLang takes, for each of its ranks, a list of (name, tensor) in the form in which torch hands CUDA tensors
from one process to another; each rank must be given one of its own, since torch counts who reads. Trainer
and servers must see the same cards under the same numbers and run the same torch. What is sent keeps to
SGLang's contract and was read against its source (0.5.23, srt/managers/tp_worker.py); without a card it
cannot be run, and is refused.
"""

from __future__ import annotations

import base64
from multiprocessing.reduction import ForkingPickler

import torch
import torch.multiprocessing  # teaches ForkingPickler to hand tensors over

from megaent.errors import ConfigError, EngineError
from megaent.rollout.sglang.control import Control
from megaent.sync.buckets import Bucket
from megaent.sync.session import Session, num_ranks


class IpcTransport:
    """``server_torch`` is the version of torch in the servers' environment."""

    needs_update_session = True

    def __init__(self, control: Control, *, server_torch: str, timeout_s: float = 120.0) -> None:
        if not torch.cuda.is_available():
            raise ConfigError(
                "rollout.sync.transport=ipc hands over memory of a CUDA device and there is none here; "
                "use broadcast or disk"
            )
        require_same_torch(torch.__version__, server_torch)
        self._control = control
        self._timeout_s = timeout_s
        self._ranks: dict[str, int] = {}

    def connect(self, session: Session, *, changed: frozenset[str]) -> None:
        unknown = changed | (set(session.alive) - self._ranks.keys())
        self._ranks |= session.each(lambda url: num_ranks(session.control, url), unknown)

    def send(self, bucket: Bucket, session: Session) -> None:
        if not bucket.data.is_cuda:
            raise EngineError(
                f"weights on {bucket.data.device} cannot be handed over by CUDA IPC; set device=cuda for the "
                "trainer or use rollout.sync.transport=broadcast"
            )
        # A server may read as soon as it is asked, whatever this card has still to do.
        torch.cuda.current_stream(bucket.data.device).synchronize()
        session.each(lambda url: self._hand_over(url, bucket))

    def _hand_over(self, url: str, bucket: Bucket) -> None:
        body = {
            "serialized_named_tensors": handles(bucket, self._ranks[url]),
            "flush_cache": False,  # once, at the end
        }
        self._control.post(url, "/update_weights_from_tensor", body, timeout_s=self._timeout_s)

    def finish(self, session: Session) -> None:
        """A reply to a bucket says that it is in use; there is nothing to add."""

    def close(self) -> None:
        """Nothing is kept open."""


def handles(bucket: Bucket, num_ranks: int) -> list[str]:
    """For each rank of a server the bucket's tensors as base64 of torch's inter-process form."""
    named = list(bucket.tensors())
    return [base64.b64encode(ForkingPickler.dumps(named)).decode("ascii") for _ in range(num_ranks)]


def require_same_torch(ours: str, theirs: str) -> None:
    """A tensor's inter-process form is private to one version of torch."""
    if ours.partition("+")[0] != theirs.partition("+")[0]:
        raise ConfigError(
            f"rollout.sync.transport=ipc needs one torch on both sides: the trainer has {ours}, the servers "
            f"have {theirs}; install the same version or use broadcast"
        )
