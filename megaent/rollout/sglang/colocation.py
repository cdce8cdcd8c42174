"""Servers on the trainer's own devices: they hold memory for weights and caches only while they generate.

What a server gives back is lost, so that the next weights must come whole; what it needs for them must be
there before they come, and its cache only afterwards, when the trainer's copies are gone. Servers are started
with SGLang's ``enable_memory_saver``; without it they take part and keep their memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from megaent.rollout.sglang.control import Control

Part = Literal["weights", "kv_cache"]


class Colocation:
    def __init__(self, control: Control) -> None:
        self._control = control
        self._without: dict[Part, set[str]] = {"weights": set(), "kv_cache": set()}

    def release(self, servers: Sequence[str]) -> None:
        """Give up weights and caches. Raises EngineError, also for a server that still generates."""
        self._control.post_all(servers, "/release_memory_occupation", {"tags": ["kv_cache", "weights"]})
        for without in self._without.values():
            without.update(servers)

    def resume(self, part: Part, servers: Sequence[str]) -> None:
        """Room for ``part`` in those that gave it up. SGLang 0.5.23 ends when it is asked for what it has."""
        without = self._without[part]
        asked = [server for server in servers if server in without]
        self._control.post_all(asked, "/resume_memory_occupation", {"tags": [part]})
        without.difference_update(asked)
