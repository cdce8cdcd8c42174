"""Buckets by broadcast: gloo between CPUs, NCCL between GPUs, the request and the bytes at the same time.

A server enters the broadcast only after it accepted the request, so neither may wait for the other: both
begin at once, and at the first sign of trouble both are left behind. Whoever shares a group with a server
that stands still waits for it inside SGLang, where no limit of ours reaches; hence one group for each
server unless ``servers_per_group`` says otherwise, and a group that fails loses its servers and no others.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass
from typing import Any

from megaent.rollout.sglang.control import Control
from megaent.sync.background import in_background
from megaent.sync.buckets import Bucket
from megaent.sync.group import BackendName, SendGroup
from megaent.sync.session import Session, num_ranks

_ANSWER_S = 5.0  # for the others of a group to say what they know after one failed


@dataclass(frozen=True, slots=True)
class _Link:
    servers: tuple[str, ...]
    group: SendGroup


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
        self._links: list[_Link] = []

    # ------------------------------------------------------------ groups

    def connect(self, session: Session, *, changed: frozenset[str]) -> None:
        """Groups of servers that did not change stay; the others are made anew."""
        usable = set(session.alive) - changed
        for link in [link for link in self._links if not usable.issuperset(link.servers)]:
            self._drop(link)
        linked = {url for link in self._links for url in link.servers}
        alone = {url for url in session.alive if url not in linked}
        ranks = session.each(lambda url: num_ranks(self._control, url), alone)
        new, step = list(ranks), self._servers_per_group
        chunks = [tuple(new[start : start + step]) for start in range(0, len(new), step)]
        for joining in [in_background(self._join, chunk, ranks, session) for chunk in chunks]:
            joining.result()

    def _join(self, servers: tuple[str, ...], ranks: dict[str, int], session: Session) -> None:
        group = SendGroup(
            world_size=1 + sum(ranks[url] for url in servers),
            backend=self._backend,
            address=self._address,
            timeout_s=self._timeout_s,
        )
        body = {
            "master_address": self._address,
            "master_port": group.port,
            "world_size": 1 + sum(ranks[url] for url in servers),
            "group_name": group.name,
            "backend": self._backend,
        }
        replies: dict[str, Future[Any]] = {}
        offset = 1
        for url in servers:
            replies[url] = self._post(url, "/init_weights_update_group", body | {"rank_offset": offset})
            offset += ranks[url]
        if self._all_well(in_background(group.join), replies, session):
            self._links.append(_Link(servers, group))
        else:
            group.abort()

    def _drop(self, link: _Link) -> None:
        """Forget a group on both sides, as far as its servers still answer."""
        self._links.remove(link)
        link.group.abort()
        body = {"group_name": link.group.name}
        wait([self._post(url, "/destroy_weights_update_group", body) for url in link.servers], _ANSWER_S)

    def close(self) -> None:
        for link in list(self._links):
            self._drop(link)

    # ------------------------------------------------------------ buckets

    def send(self, bucket: Bucket, session: Session) -> None:
        body = {
            "names": [spec.name for spec in bucket.specs],
            "dtypes": [spec.dtype_name for spec in bucket.specs],
            "shapes": [list(spec.shape) for spec in bucket.specs],
            "load_format": "flattened_bucket",
            "flush_cache": False,  # once, at the end
        }
        sending = [in_background(self._send, link, bucket, body, session) for link in self._links]
        for future in sending:
            future.result()

    def _send(self, link: _Link, bucket: Bucket, body: dict[str, object], session: Session) -> None:
        if not set(link.servers) <= set(session.alive):
            return
        path = "/update_weights_from_distributed"
        replies = {url: self._post(url, path, body | {"group_name": link.group.name}) for url in link.servers}
        if not self._all_well(in_background(link.group.broadcast, bucket.data), replies, session):
            link.group.abort()

    def finish(self, session: Session) -> None:
        """A reply to a bucket says that it is in use; there is nothing to add."""

    # ------------------------------------------------------------ request and bytes together

    def _post(self, url: str, path: str, body: object) -> Future[Any]:
        return in_background(self._control.post, url, path, body, timeout_s=self._timeout_s)

    def _all_well(self, ours: Future[None], replies: dict[str, Future[Any]], session: Session) -> bool:
        """Wait for our part and every reply, until the first failure; then all of the group are lost."""
        wait([ours, *replies.values()], self._timeout_s, FIRST_EXCEPTION)
        if all(future.done() and future.exception() is None for future in (ours, *replies.values())):
            return True
        wait(replies.values(), _ANSWER_S)
        for url, reply in replies.items():
            session.lose(url, _reason(url, ours, reply, self._timeout_s))
        return False


def _reason(url: str, ours: Future[None], reply: Future[Any], timeout_s: float) -> str:
    """Why a server of a failed group is lost: what it said, or what became of the broadcast."""
    if reply.done() and reply.exception() is not None:
        return str(reply.exception())
    if ours.done() and ours.exception() is not None:
        return f"the broadcast to {url} failed: {str(ours.exception()).splitlines()[0]}"
    if not reply.done():
        return f"{url} did not take a bucket within {timeout_s:g} s"
    return f"{url} took a bucket that another server of its group did not take"
