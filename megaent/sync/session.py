"""One update of the weights of several servers: paused, written, flushed, and let go again.

A server that fails one of these steps is lost: it is left out of the rest and stays paused, because its
weights may be half written, and says so when asked for their version. The next update that it answers to
opens it again and writes it whole.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Container, Sequence
from typing import TypeVar

from megaent.errors import EngineError
from megaent.rollout.sglang.connection import RefusedError
from megaent.rollout.sglang.control import Control, PauseMode
from megaent.sync.background import in_background

Answer = TypeVar("Answer")

INCOMPLETE = "incomplete"  # the version of weights that are being written


class Session:
    """``alive`` are the servers still being written, ``failed`` says of each of the others why."""

    def __init__(self, control: Control, servers: Sequence[str]) -> None:
        self.control = control
        self.alive: tuple[str, ...] = tuple(dict.fromkeys(servers))
        self.failed: dict[str, str] = {}
        self._changing = threading.Lock()

    def lose(self, url: str, why: str) -> None:
        """Leave ``url`` out from here on. Thread-safe."""
        with self._changing:
            self.alive = tuple(other for other in self.alive if other != url)
            self.failed.setdefault(url, why)

    def each(self, call: Callable[[str], Answer], among: Container[str] | None = None) -> dict[str, Answer]:
        """``call(url)`` for every living server at once; one for which it raises EngineError is lost."""
        chosen = [url for url in self.alive if among is None or url in among]
        under_way = {url: in_background(call, url) for url in chosen}
        answers: dict[str, Answer] = {}
        for url, future in under_way.items():
            try:
                answers[url] = future.result()
            except EngineError as error:
                self.lose(url, str(error))
        return answers

    def ask(self, path: str, body: object) -> None:
        """The same request to every living server at once."""
        calls = self.control.begin_post(path, dict.fromkeys(self.alive, body))
        for url, outcome in calls.outcomes().items():
            if isinstance(outcome, EngineError):
                self.lose(url, str(outcome))

    # ------------------------------------------------------------ the steps

    def pause(self, mode: PauseMode) -> None:
        self.ask("/pause_generation", {"mode": mode})

    def begin(self, among: Container[str]) -> None:
        self.each(self._begin, among)

    def _begin(self, url: str) -> None:
        body = {"selector": "all"}
        try:
            self.control.post(url, "/begin_weight_update", body)
        except RefusedError:
            # A trainer that died, or an update that failed, left the server with an update open.
            with contextlib.suppress(RefusedError):
                self.control.post(url, "/end_weight_update", {})
            self.control.post(url, "/begin_weight_update", body)

    def end(self, among: Container[str]) -> None:
        self.each(lambda url: self.control.post(url, "/end_weight_update", {}), among)

    def name(self, version: str) -> None:
        """What the server says of its weights, and of the tokens generated from here on."""
        self.ask("/update_weight_version", {"new_version": version, "abort_all_requests": False})

    def flush(self) -> None:
        """Forget every prefix computed with the old weights; a server that does not is lost."""
        self.each(self._flush)

    def _flush(self, url: str) -> None:
        try:
            self.control.post(url, "/flush_cache", {})
        except RefusedError:
            # Whoever paused it before, in place, left it with requests that hold the cache.
            self.control.post(url, "/pause_generation", {"mode": "retract"})
            self.control.post(url, "/flush_cache", {})

    def resume(self) -> None:
        self.ask("/continue_generation", {})


def num_ranks(control: Control, url: str) -> int:
    """In how many parts a server holds its tensors, each with a process that takes weights."""
    info = control.get(url, "/server_info")
    sizes = {
        key: info.get(key) if isinstance(info, dict) else None for key in ("tp_size", "pp_size", "dp_size")
    }
    if sizes["pp_size"] != 1 or sizes["dp_size"] != 1 or type(sizes["tp_size"]) is not int:
        raise EngineError(
            f"{url} cannot take weights: SGLang finds a rank's part by its tensor rank alone, which needs "
            f"pp_size=1 and dp_size=1, got {sizes}; start one server for each replica, or use "
            "rollout.sync.transport=disk"
        )
    return sizes["tp_size"]
