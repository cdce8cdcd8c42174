"""A verifier behind HTTP: batches of responses are sent, grades come back, all within limits.

    POST url   {"items": [{"id", "question", "key", "response"}, ...]}
    200        {"grades": [{"reward", "correct", "note"?, "answer"?} or {"failed": why}, ...]}, in order

What fails for good is not scored, and no response is graded because a server was away. A refusal (any
other 4xx) is an error of the configuration, and ends the run.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from megaent.errors import ConfigError
from megaent.types import Grade, Group

if TYPE_CHECKING:
    import aiohttp

API_KEY = "MEGAENT_VERIFIER_KEY"
"""The environment variable whose value is sent as ``Authorization: Bearer``, and never printed."""

TRIES = 3
_AT_ONCE = 4  # batches under way
_PAUSE_S = 0.5  # before the second try; doubled after
_LARGEST = 1 << 24  # bytes of an answer
_SHOWN = 200  # characters of a server's words
_PASSING = {408, 425, 429}  # of the 4xx statuses those that speak of the moment


class _Item(NamedTuple):
    id: str
    question: str
    key: str
    response: str


class _FailedError(Exception):
    """No usable answer; another try may have one."""


class RemoteVerifier:
    """``url`` is asked for ``batch`` responses at a time and given ``timeout_s`` seconds for each batch."""

    def __init__(self, *, url: str, batch: int = 64, timeout_s: float = 60.0) -> None:
        require_url(url)
        self._url, self._batch, self._timeout_s = url, batch, timeout_s

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        """Raises ConfigError where the server refuses the request itself."""
        items = [
            _Item(g.prompt.id, g.prompt.text, g.prompt.answer, r.text) for g in groups for r in g.responses
        ]
        try:
            grades = iter(asyncio.run(self._grades(items)))
        except* ConfigError as refusals:
            raise refusals.exceptions[0] from None
        return [replace(group, grades=tuple(next(grades) for _ in group.responses)) for group in groups]

    def close(self) -> None:
        """Nothing is held between calls."""

    async def _grades(self, items: Sequence[_Item]) -> list[Grade]:
        import aiohttp

        headers = {"Authorization": f"Bearer {os.environ[API_KEY]}"} if API_KEY in os.environ else {}
        limit = asyncio.Semaphore(_AT_ONCE)
        async with aiohttp.ClientSession(headers=headers, trust_env=False) as session:
            batches = [items[start : start + self._batch] for start in range(0, len(items), self._batch)]
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(self._tried(session, limit, batch)) for batch in batches]
        return [grade for task in asked for grade in task.result()]

    async def _tried(
        self, session: aiohttp.ClientSession, limit: asyncio.Semaphore, items: Sequence[_Item]
    ) -> list[Grade]:
        """Only what has failed is asked again."""
        grades: dict[int, Grade] = {}
        failures = dict.fromkeys(range(len(items)), "never asked")
        for attempt in range(TRIES):
            await asyncio.sleep(_PAUSE_S * 2 ** (attempt - 1) if attempt else 0)
            places = list(failures)
            async with limit:
                said = await self._asked(session, [items[place] for place in places])
            for place, grade in zip(places, said, strict=True):
                if isinstance(grade, Grade):
                    grades[place] = grade
                    del failures[place]
                else:
                    failures[place] = grade
            if not failures:
                break
        return [grades.get(place) or _unscored(failures[place]) for place in range(len(items))]

    async def _asked(self, session: aiohttp.ClientSession, items: Sequence[_Item]) -> list[Grade | str]:
        """A grade or the reason of its failure, for each item."""
        try:
            answer = await self._exchange(session, {"items": [item._asdict() for item in items]})
            return _read(answer, len(items))
        except _FailedError as failure:
            return [str(failure)] * len(items)

    async def _exchange(self, session: aiohttp.ClientSession, body: object) -> bytes:
        import aiohttp

        try:
            async with (
                asyncio.timeout(self._timeout_s),
                session.post(self._url, json=body, allow_redirects=False) as answer,
            ):
                status, content = answer.status, await _content(answer)
        except TimeoutError:
            raise _FailedError(f"no answer within {self._timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            raise _FailedError(f"{type(error).__name__} {error}"[:_SHOWN]) from error
        if status == 200:
            return content
        reason = f"answered with {status}: {_words(content)}"
        if 400 <= status < 500 and status not in _PASSING:
            raise ConfigError(
                f"the verifier at {self._url} {reason}; it must take the requests of docs/verifiers.md, "
                f"with the key in {API_KEY} where it wants one"
            )
        raise _FailedError(reason)


def require_url(url: str) -> None:
    """Raises ConfigError for what is no address of a server."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigError(
            f"a remote verifier needs an address such as http://127.0.0.1:8000/grade, a key in {API_KEY} and "
            f"not in it, got {'one with a user' if parts.username is not None else repr(url)}"
        )


async def _content(answer: aiohttp.ClientResponse) -> bytes:
    received = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        received += chunk
        if len(received) > _LARGEST:
            raise _FailedError(f"an answer of more than {_LARGEST} bytes")
    return bytes(received)


def _read(content: bytes, count: int) -> list[Grade | str]:
    try:
        grades = json.loads(content)["grades"]
        if not isinstance(grades, list) or len(grades) != count:
            raise ValueError(f"{count} grades were expected")
        return [_grade(grade) for grade in grades]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _FailedError(f"no usable answer ({type(error).__name__} {error}): {_words(content)}") from error


def _grade(said: Mapping[str, Any]) -> Grade | str:
    if "failed" in said:
        return str(said["failed"])[:_SHOWN]
    reward, correct = said["reward"], said["correct"]
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise ValueError(f"reward must be a finite number, got {reward!r}")
    if not isinstance(correct, bool):
        raise ValueError(f"correct must be true or false, got {correct!r}")
    note, answer = str(said.get("note", ""))[:_SHOWN], str(said.get("answer", ""))
    return Grade(reward=float(reward), correct=correct, note=note, answer=answer)


def _unscored(reason: str) -> Grade:
    return Grade(reward=0.0, correct=False, note=f"the verifier failed: {reason}", is_scored=False)


def _words(content: bytes) -> str:
    text = content[:_SHOWN].decode("utf-8", "replace")
    return "".join(sign if sign.isprintable() else " " for sign in text)
