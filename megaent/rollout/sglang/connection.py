"""HTTP to SGLang servers: JSON in and out, connections kept alive, a limit on the whole of every exchange.

One event loop in a thread of its own serves both kinds of callers: coroutines that generate, and threads
that wait for one answer. aiohttp, because hundreds of requests are under way at once: httpx looks at every
connection for every request (decision 14).
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp

from megaent.errors import ConfigError, EngineError

Result = TypeVar("Result")

_END_LIMIT_S = 10.0
_IDLE_S = 2.0  # SGLang closes after 5 s; a request on a connection that is being closed is lost
_SHOWN = 300  # characters of an answer that is quoted in a message

# Of the 4xx statuses those that speak of the moment and not of the request.
_PASSING = {408, 425, 429}


class RefusedError(EngineError):
    """The server understood and said no; the same request will be refused again."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnavailableError(EngineError):
    """No usable answer; another attempt, or another server, may have one."""

    def __init__(self, message: str, *, status: int | None = None, is_late: bool = False) -> None:
        super().__init__(message)
        self.status = status  # None when there was no answer at all
        self.is_late = is_late  # no answer in time, on a connection that still stands


class Connections:
    """A pool of connections to any number of servers. Thread-safe; the key is sent and never printed."""

    def __init__(self, *, api_key: str = "", max_connections: int = 512) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sglang connections", daemon=True)
        self._max_connections = max_connections
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._pool: aiohttp.ClientSession | None = None  # belongs to the loop, which makes it
        self._thread.start()

    async def request(
        self,
        method: str,
        url: str,
        body: object = None,
        *,
        timeout_s: float,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The parsed answer, or its text where the server does not answer in JSON.

        Raises RefusedError or UnavailableError, both with the server's own reason.
        """
        where = f"{method} {url}"
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session().request(
                    method, url, json=body, headers=headers, allow_redirects=False
                ) as answer,
            ):
                status, kind, text = answer.status, answer.content_type, await answer.text(errors="replace")
        except TimeoutError:
            raise UnavailableError(f"{where}: no answer within {timeout_s:g} s", is_late=True) from None
        except aiohttp.ClientError as error:
            raise UnavailableError(f"{where}: {type(error).__name__} {error}".rstrip()) from error
        if status != 200:
            reason = f"{where} was answered with {status}: {reason_of(text)}"
            if 400 <= status < 500 and status not in _PASSING:
                raise RefusedError(reason, status=status)
            raise UnavailableError(reason, status=status)
        if kind != "application/json":
            return text
        try:
            return json.loads(text)
        except ValueError as error:
            raise UnavailableError(
                f"{where}: the answer is no JSON ({error}): {text[:_SHOWN]!r}", status=200
            ) from error

    def _session(self) -> aiohttp.ClientSession:
        if self._pool is None:
            self._pool = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=_IDLE_S),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # each request has its own
                trust_env=False,  # a proxy for the outside world is no way to a server of ours
            )
        return self._pool

    def start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a coroutine on the loop's thread; the future's ``cancel`` reaches it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait for a coroutine; an interrupted wait (Ctrl-C) cancels it, which closes its connections."""
        future = self.start(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close every connection and end the thread; harmless when called twice."""
        if not self._thread.is_alive():
            return
        self.start(self._end()).result(_END_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END_LIMIT_S)
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._pool is not None:
            await self._pool.close()


def reason_of(text: str) -> str:
    """What a refusal says: under ``error`` (text, or with a ``message`` in it), ``message`` or ``detail``."""
    try:
        found = json.loads(text)
    except ValueError:
        return text[:_SHOWN]
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return found if isinstance(found, str) else json.dumps(found)[:_SHOWN]


def server_url(text: str) -> str:
    """``http://host:port`` without a slash at its end. Raises ConfigError for what is no such address."""
    try:
        url = urlsplit(text)
        is_plain = url.port is None or url.port > 0  # reading it raises for what is no number of a port
    except ValueError as error:
        raise ConfigError(f"{text!r} is no address of a server: {error}") from error
    is_plain = is_plain and not (url.username or url.password or url.query or url.fragment)
    if url.scheme not in ("http", "https") or not url.hostname or not is_plain:
        raise ConfigError(f"{text!r} is no address of a server; write it like http://10.0.0.5:30000")
    return text.rstrip("/")
