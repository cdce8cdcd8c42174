"""The trainer's end of a process group whose other ranks are inside SGLang servers.

A server joins as SGLang's ``init_custom_process_group`` does (sglang 0.5.23, srt/utils/common.py): a client
of the TCP store here, with the group's name twice and the device once as prefixes of its keys. The group
is built from the backend itself and is not registered anywhere, so a trainer needs no default group, and
one that has to be given up leaves nothing behind.
"""

from __future__ import annotations

import socket
import uuid
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor

from megaent.errors import EngineError

BackendName = Literal["gloo", "nccl"]

# Torch's stubs lack what its stores and backends accept; gloo's options have no public name.
_c10d: Any = torch.distributed

# The first device of each backend, which torch puts into the keys.
_KEY_DEVICE = {"gloo": "cpu", "nccl": "cuda"}


class SendGroup:
    """Rank 0 of ``world_size``. Its name is new every time: SGLang refuses one that it has seen.

    Torch ends a broadcast over gloo that nobody takes only after ``timeout_s``; whoever cannot wait makes
    the calls in a thread and leaves it behind.
    """

    def __init__(self, *, world_size: int, backend: BackendName, address: str, timeout_s: float) -> None:
        self.name = f"megaent-{uuid.uuid4().hex}"
        self.backend: BackendName = backend
        self.address = address
        self.world_size = world_size
        self._timeout = timedelta(seconds=timeout_s)
        # Torch's own socket would listen on every interface.
        listening = socket.create_server((address, 0))
        self.port: int = listening.getsockname()[1]
        self._store = _c10d.TCPStore(
            address,
            self.port,
            world_size,
            is_master=True,
            timeout=self._timeout,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
        self._group: Any = None

    def join(self) -> None:
        """Wait until every server has joined, ``timeout_s`` at the longest."""
        device = _KEY_DEVICE[self.backend]
        store = _c10d.PrefixStore(self.name, self._store)
        store = _c10d.PrefixStore(f"{device}/", _c10d.PrefixStore(f"{self.name}/", store))
        if self.backend == "gloo":
            options = _c10d.ProcessGroupGloo._Options()
            options._devices = [_c10d.ProcessGroupGloo.create_device(hostname=self.address)]
            options._timeout = self._timeout
            self._group = _c10d.ProcessGroupGloo(store, 0, self.world_size, options)
        else:
            options = _c10d.ProcessGroupNCCL.Options()
            options._timeout = self._timeout
            self._group = _c10d.ProcessGroupNCCL(store, 0, self.world_size, options)

    def broadcast(self, data: Tensor) -> None:
        """Returns when ``data`` may be written over. Raises RuntimeError when a server is gone or late."""
        if data.is_cuda != (self.backend == "nccl"):
            raise EngineError(
                f"{self.backend} cannot send weights that lie on {data.device}; servers on a GPU take them "
                "by NCCL from a trainer on a GPU, servers on a CPU by gloo from a CPU"
            )
        if data.is_cuda:
            torch.cuda.set_device(data.device)  # a new thread begins on the first card
        assert self._group is not None, "broadcast before join"
        self._group.broadcast(data, 0, self._timeout).wait(self._timeout)

    def abort(self) -> None:
        """End what is on its way, where the backend can (NCCL)."""
        if self._group is not None:
            self._group.abort()
