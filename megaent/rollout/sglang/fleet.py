"""Several servers: which one gets a group, which ones are lost, and when one may be used again.

Everything but ``restart_dead`` runs on the connections' loop.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from megaent.errors import EngineError
from megaent.rollout.sglang.connection import Connections, UnavailableError
from megaent.rollout.sglang.server import Server

log = logging.getLogger(__name__)

_PROBE_EVERY_S = 2.0
_PROBE_LIMIT_S = 25.0  # a batch may take some seconds; a router gives its own probe 20 s


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """One address that answers questions: a server, or a router with servers behind it."""

    url: str
    server: Server | None = None  # when it is ours to start and to end
    is_router: bool = False
    why_lost: str = "it has no weights yet"  # "" when it is of use
    under_way: set[asyncio.Task[Any]] = field(default_factory=set)
    last_sign: float = 0.0  # time.monotonic() of the last sign of life

    @property
    def trouble(self) -> str:
        """Why it is of no use, with its last words if it is ours."""
        return self.server.last_words() if self.server is not None and self.is_dead else self.why_lost

    @property
    def is_dead(self) -> bool:
        """Known to be gone for good, until it is started anew."""
        return self.server is not None and not self.server.is_alive


class Fleet:
    """``silence_limit_s``: a server that gives no sign of life for so long is lost.

    For as long one is waited for when all are lost.
    """

    def __init__(
        self, connections: Connections, members: Sequence[Member], *, silence_limit_s: float
    ) -> None:
        self.members = list(members)
        self.version = -1  # of the weights that a server must hold to be of use
        self.newest = -1  # of the weights that a server may hold: those on their way, when some are
        self._connections = connections
        self._silence_limit_s = silence_limit_s
        self._life = secrets.token_hex(4)
        self._chosen: dict[str, Member] = {}  # by group
        self._shunned: dict[str, Member] = {}
        self._watchers = 0  # calls of ``generate`` under way
        self._watch: asyncio.Task[None] | None = None

    @property
    def cache_key(self) -> str:
        """Requests of one key share prefixes. A run that is resumed uses its numbers of versions again."""
        return f"{self._life} {self.version}"

    # ------------------------------------------------------------ asking

    async def choose(self, group: str) -> Member:
        """The member that has the group's other responses, or the one with the least to do.

        Raises EngineError when all are lost and none returns in time.
        """
        chosen = self._chosen.get(group)
        if chosen is not None and not chosen.why_lost:
            return chosen
        deadline = time.monotonic() + self._silence_limit_s
        while not (ready := [member for member in self.members if not member.why_lost]):
            if time.monotonic() > deadline or all(member.is_dead for member in self.members):
                raise EngineError(f"no SGLang server is left ({self.losses()})")
            await asyncio.sleep(0.1)
        shunned = self._shunned.get(group)
        self._chosen[group] = min(ready, key=lambda member: (member is shunned, len(member.under_way)))
        return self._chosen[group]

    def in_use(self) -> list[Member]:
        """Those that are not lost."""
        return [member for member in self.members if not member.why_lost]

    def losses(self) -> str:
        return "; ".join(f"{member.url}: {member.trouble}" for member in self.members if member.why_lost)

    def shun(self, group: str, member: Member) -> None:
        """Let another member have the group, if there is another."""
        self._shunned[group] = member
        self._chosen.pop(group, None)

    async def post(
        self, member: Member, path: str, body: object, *, timeout_s: float, headers: dict[str, str]
    ) -> Any:
        """A request that ends early, with UnavailableError, when the member is lost meanwhile."""
        request = self._connections.request(
            "POST", member.url + path, body, timeout_s=timeout_s, headers=headers
        )
        task = asyncio.ensure_future(request)
        if not member.under_way:
            member.last_sign = time.monotonic()  # silence counts from when something is owed
        member.under_way.add(task)
        try:
            await asyncio.wait([task])
        finally:
            member.under_way.discard(task)
            task.cancel()
        if task.cancelled():
            raise UnavailableError(f"{member.url} was lost: {member.why_lost}", status=None)
        answer = task.result()
        member.last_sign = time.monotonic()
        return answer

    def forget(self, group: str) -> None:
        """It is complete."""
        self._chosen.pop(group, None)
        self._shunned.pop(group, None)

    # ------------------------------------------------------------ losing and finding

    def lose(self, member: Member, why: str) -> None:
        """Ask it nothing more, and give up what it was asked."""
        if member.why_lost:
            return
        member.why_lost = why
        log.warning("the SGLang server %s is lost: %s", member.url, why)
        for task in list(member.under_way):
            task.cancel()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Inside, the members that owe answers and those that are lost are probed again and again."""
        self._watchers += 1
        if self._watch is None:
            self._watch = asyncio.create_task(self._keep_watch())
        try:
            yield
        finally:
            self._watchers -= 1
            if self._watchers == 0:
                self._watch.cancel()
                self._watch = None

    async def _keep_watch(self) -> None:
        while True:
            owing = [member for member in self.members if member.why_lost or member.under_way]
            await asyncio.gather(*(self._look_after(member) for member in owing))
            await asyncio.sleep(_PROBE_EVERY_S)

    async def suspect(self, member: Member, why: str) -> None:
        """After a connection broke: lose the member unless it still answers on another one."""
        if not member.why_lost and await self._trouble(member):
            self.lose(member, why)

    async def _look_after(self, member: Member) -> None:
        if member.server is not None and not member.server.is_alive:
            self.lose(member, member.server.last_words())
            return
        trouble = await self._trouble(member)
        if not trouble:
            member.last_sign = time.monotonic()
        if member.why_lost:
            member.why_lost = trouble or await self._other_weights(member)
            if not member.why_lost:
                log.warning("the SGLang server %s has returned", member.url)
            return
        # A server that is being written generates nothing; whoever writes it has limits of its own.
        is_written = self.newest != self.version
        if trouble and not is_written and time.monotonic() - member.last_sign > self._silence_limit_s:
            self.lose(member, trouble)

    async def _trouble(self, member: Member) -> str:
        """Why a member is of no use now, "" when its scheduler answers.

        SGLang's /health generates, and says 503 of a server that is paused; /server_info asks the scheduler
        between two batches, paused or not. A router knows only the first.
        """
        limit = min(_PROBE_LIMIT_S, self._silence_limit_s)
        path = "/health" if member.is_router else "/server_info"
        try:
            await self._connections.request("GET", member.url + path, timeout_s=limit)
        except EngineError as error:
            return str(error)
        return ""

    async def _other_weights(self, member: Member) -> str:
        """Which weights a member holds in place of the newest, "" when it holds these."""
        if member.is_router:
            return ""
        try:
            info = await self._connections.request(
                "GET", f"{member.url}/model_info", timeout_s=_PROBE_LIMIT_S
            )
        except EngineError as error:
            return str(error)
        held = info.get("weight_version") if isinstance(info, dict) else None
        if held == str(self.version):
            return ""
        return f"it holds the weights {held!r}, not version {self.version}, until the next publication"

    # ------------------------------------------------------------ weights

    def restart_dead(self) -> None:
        """Start every server of ours that ended anew, all at once. To be called in the main thread."""
        dead = [(member, member.server) for member in self.members if member.server and member.is_dead]
        for member, server in dead:
            log.warning("the SGLang server %s ended; starting another", member.url)
            member.server = server.another()
            member.url, member.why_lost = member.server.url, "it has no weights yet"
        for member, _ in dead:
            assert member.server is not None
            try:
                member.server.wait_until_ready()
            except EngineError as error:
                member.why_lost = str(error)
                log.warning("%s", error)

    async def reachable(self) -> list[Member]:
        """The members that are of use, and those of the lost ones that answer again."""

        async def answers(member: Member) -> bool:
            return not member.why_lost or (not member.is_dead and not await self._trouble(member))

        found = await asyncio.gather(*map(answers, self.members))
        return [member for member, is_there in zip(self.members, found, strict=True) if is_there]

    async def took_weights(self, version: int, members: Sequence[Member], failed: Mapping[str, str]) -> None:
        """``members`` hold ``version`` now, except the ``failed`` (address -> why)."""
        self.version = version
        for member in members:
            if member.url in failed:
                self.lose(member, f"it did not take the weights of version {version}: {failed[member.url]}")
            else:
                member.why_lost, member.last_sign = "", time.monotonic()

    def close(self) -> None:
        for member in self.members:
            if member.server is not None:
                member.server.close()
