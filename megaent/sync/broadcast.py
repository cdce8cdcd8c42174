"""Buckets by broadcast: gloo between CPUs, NCCL between GPUs.

Whoever shares a group with a server that stands still waits for it inside SGLang, where no limit of ours
reaches; hence one group for each server unless ``servers_per_group`` says otherwise, and a group that fails
loses its servers and no others.
"""

from __future__ import annotations

from collections.abc import Callable

from megaent.rollout.sglang.control import Control
from megaent.sync.background import in_background
from megaent.sync.buckets import Bucket
from megaent.sync.group import BackendName, SendGroup
from megaent.sync.link import Link, LinkError
from megaent.sync.session import Session, num_ranks


class BroadcastTransport:
    """``address`` is one of this machine that the servers reach; loopback when they run on it.

    ``timeout_s`` bounds the forming of a group and the sending of one bucket.
    """

    needs_update_session = True

    def __init__(
        self,
        control: Control,
        *,
        backend: BackendName,
        address: str = "127.0.0.1",
        servers_per_group: int = 1,
        timeout_s: float = 120.0,
    ) -> None:
        if servers_per_group < 1:
            raise ValueError(f"servers_per_group must be at least 1, got {servers_per_group}")
        self._control = control
        self._backend: BackendName = backend
        self._address = address
        self._servers_per_group = servers_per_group
        self._timeout_s = timeout_s
        self._links: list[Link] = []

    def connect(self, session: Session, *, changed: frozenset[str]) -> None:
        """Groups of servers that did not change stay; the others are made anew."""
        usable = set(session.alive) - changed
        kept = [link for link in self._links if usable.issuperset(link.servers)]
        for link in self._links:
            if link not in kept:
                link.close()
        linked = {url for link in kept for url in link.servers}
        alone = {url for url in session.alive if url not in linked}
        ranks = session.each(lambda url: num_ranks(self._control, url), alone)
        new, step = list(ranks.items()), self._servers_per_group
        self._links = [self._link(dict(new[i : i + step])) for i in range(0, len(new), step)]
        self._each(Link.join, session)
        self._links += kept

    def _link(self, servers: dict[str, int]) -> Link:
        group = SendGroup(
            world_size=1 + sum(servers.values()),
            backend=self._backend,
            address=self._address,
            timeout_s=self._timeout_s,
        )
        return Link(self._control, group, servers, timeout_s=self._timeout_s)

    def send(self, bucket: Bucket, session: Session) -> None:
        self._each(lambda link: link.send(bucket), session)

    def finish(self, session: Session) -> None:
        """A reply to a bucket says that it is in use; there is nothing to add."""

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._links = []

    def _each(self, call: Callable[[Link], None], session: Session) -> None:
        """For every group at once; one that fails is dropped, and its servers are lost."""
        under_way = [(link, in_background(call, link)) for link in self._links]
        for link, future in under_way:
            try:
                future.result()
            except LinkError as error:
                self._links.remove(link)
                for url, why in error.reasons.items():
                    session.lose(url, why)
