"""Buckets through a folder that trainer and servers share: slow, and indifferent to what lies between them.

Each bucket is one safetensors file. The folder is written under another name, brought to the disk, renamed,
read by the servers, and removed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from megaent.durable import sync
from megaent.rollout.sglang.control import Control
from megaent.sync.buckets import Bucket
from megaent.sync.session import Session

_WRITING = "weights.unfinished"
_READY = "weights"


class DiskTransport:
    """``folder`` is this sender's own: what an earlier one left of its weights there is removed."""

    needs_update_session = False

    def __init__(self, control: Control, folder: Path, *, timeout_s: float = 600.0) -> None:
        self._control = control
        self._folder = folder.absolute()
        self._timeout_s = timeout_s
        self._num_files = 0

    def connect(self, session: Session, *, changed: frozenset[str]) -> None:
        self.close()
        (self._folder / _WRITING).mkdir(parents=True)
        self._num_files = 0

    def send(self, bucket: Bucket, session: Session) -> None:
        path = self._folder / _WRITING / f"model-{self._num_files:05d}.safetensors"
        save_file(dict(bucket.tensors()), path, metadata={"format": "pt"})
        sync(path)
        self._num_files += 1

    def finish(self, session: Session) -> None:
        """Nothing to read where no tensor changed."""
        if self._num_files:
            ready = self._folder / _READY
            sync(self._folder / _WRITING)
            (self._folder / _WRITING).rename(ready)
            sync(self._folder)
            body = {"model_path": str(ready), "flush_cache": False}
            session.each(
                lambda url: self._control.post(
                    url, "/update_weights_from_disk", body, timeout_s=self._timeout_s
                )
            )
        self.close()

    def close(self) -> None:
        for name in (_WRITING, _READY):
            shutil.rmtree(self._folder / name, ignore_errors=True)
