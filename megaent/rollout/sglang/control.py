"""What is asked of servers besides tokens: who they are, what they hold, and to take weights.

Every call blocks its thread and none blocks longer than its limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from megaent.errors import EngineError
from megaent.rollout.sglang.connection import Connections, UnavailableError

PauseMode = Literal["in_place", "retract", "abort"]
"""What becomes of running requests: kept with their cache, put back into the queue, or ended as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a server's own description of its interface (/openapi.json) lists."""

    paths: frozenset[str]

    @property
    def has_update_session(self) -> bool:
        """Weights are taken between begin_weight_update and end_weight_update alone (0.5.23, not 0.5.15)."""
        return {"/begin_weight_update", "/end_weight_update"} <= self.paths


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a server says of the model in use."""

    weight_version: str  # "default" until a first update names one
    model_path: str


class Calls:
    """One request to each of several servers, under way."""

    def __init__(self, futures: Mapping[str, Future[Any]]) -> None:
        self._futures = futures

    def outcomes(self) -> dict[str, Any]:
        """By server: the answer, or the EngineError in its place. Waits for all of them."""
        found: dict[str, Any] = {}
        for url, future in self._futures.items():
            try:
                found[url] = future.result()
            except EngineError as error:
                found[url] = error
        return found

    def results(self) -> dict[str, Any]:
        """By server: the answer. Raises EngineError that names every server without one."""
        found = self.outcomes()
        failed = [str(outcome) for outcome in found.values() if isinstance(outcome, EngineError)]
        if failed:
            raise EngineError("; ".join(failed))
        return found


class Control:
    """Requests to one server by its address, or to many at once."""

    def __init__(self, connections: Connections, *, timeout_s: float = 60.0) -> None:
        self._connections = connections
        self._timeout_s = timeout_s

    def get(self, url: str, path: str, *, timeout_s: float | None = None) -> Any:
        return self._connections.run(self._request("GET", url, path, None, timeout_s))

    def post(self, url: str, path: str, body: object, *, timeout_s: float | None = None) -> Any:
        return self._connections.run(self._request("POST", url, path, body, timeout_s))

    def begin_post(self, path: str, bodies: Mapping[str, object], *, timeout_s: float | None = None) -> Calls:
        """Start a request to each server of ``bodies`` and return at once."""
        return Calls(
            {
                url: self._connections.start(self._request("POST", url, path, body, timeout_s))
                for url, body in bodies.items()
            }
        )

    def post_all(
        self, urls: Sequence[str], path: str, body: object, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """The same request to every server at once. Raises EngineError that names those that failed."""
        return self.begin_post(path, dict.fromkeys(urls, body), timeout_s=timeout_s).results()

    def _request(self, method: str, url: str, path: str, body: object, timeout_s: float | None) -> Any:
        return self._connections.request(method, url + path, body, timeout_s=timeout_s or self._timeout_s)

    # ------------------------------------------------------------ what a server is

    def capabilities(self, url: str) -> Capabilities:
        description = self.get(url, "/openapi.json")
        paths = description.get("paths") if isinstance(description, dict) else None
        if not isinstance(paths, dict):
            raise UnavailableError(f"{url}/openapi.json lists no paths: this is no SGLang server", status=200)
        return Capabilities(paths=frozenset(paths))

    def model_info(self, url: str) -> ModelInfo:
        info = self.get(url, "/model_info")
        if not isinstance(info, dict) or not isinstance(info.get("weight_version"), str):
            raise UnavailableError(
                f"{url}/model_info names no weight_version: is this SGLang 0.5.15 or later?", status=200
            )
        return ModelInfo(weight_version=info["weight_version"], model_path=str(info.get("model_path", "")))

    def workers(self, router: str) -> list[str]:
        """The servers behind an sglang-router; the router itself passes no control request on."""
        answer = self.get(router, "/workers")
        found = answer.get("workers") if isinstance(answer, dict) else None
        if not isinstance(found, list) or not all(
            isinstance(w, dict) and isinstance(w.get("url"), str) for w in found
        ):
            raise UnavailableError(f"{router}/workers names no servers: this is no sglang-router", status=200)
        return [worker["url"].rstrip("/") for worker in found]
