"""For leaders that share servers: one of them sends the weights, the others wait until they are there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from megaent.errors import EngineError
from megaent.rollout.sglang.control import Control
from megaent.types import Metrics

_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """``failed``: servers that did not report the version in time."""

    failed: Mapping[str, str] = field(default_factory=dict)

    def metrics(self) -> Metrics:
        """Whoever sends has them."""
        return {}


class Follower:
    """Takes a sender's place: reads its share of the stream, sends nothing, and waits."""

    def __init__(self, control: Control, *, timeout_s: float) -> None:
        self._control = control
        self._timeout_s = timeout_s

    def send(
        self, named_tensors: Iterable[tuple[str, Tensor]], version: int, *, servers: Sequence[str]
    ) -> Followed:
        """Raises EngineError when no server reports ``version`` within the limit."""
        for _ in named_tensors:
            pass
        deadline = time.monotonic() + self._timeout_s
        waiting = dict.fromkeys(servers, "it does not answer")
        while waiting and time.monotonic() < deadline:
            for url in list(waiting):
                try:
                    held = self._control.model_info(url).weight_version
                except EngineError as error:
                    waiting[url] = str(error)
                    continue
                if held == str(version):
                    del waiting[url]
                else:
                    waiting[url] = f"it holds the weights {held!r} after {self._timeout_s:g} s"
            if waiting:
                time.sleep(_POLL_S)
        if len(waiting) == len(servers):
            reasons = "; ".join(f"{url}: {why}" for url, why in waiting.items())
            raise EngineError(f"no server has the weights of version {version} ({reasons})")
        return Followed(failed=waiting)

    def close(self) -> None:
        """There is nothing to release."""
