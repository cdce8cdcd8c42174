"""One process group and the servers in it.

A server enters a broadcast only after it took the request for it, so neither may wait for the other: both
begin at once, and at the first sign of trouble both are left behind. The next request follows the reply to
the one before it: a short broadcast is over here before its request has arrived there, and a later request
could overtake it on another connection and take its bytes.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any

from megaent.rollout.sglang.control import Control
from megaent.sync.background import in_background
from megaent.sync.buckets import Bucket
from megaent.sync.group import SendGroup

_ANSWER_S = 5.0  # for the others of a group to say what they know after one failed


class LinkError(Exception):
    """The group is of no use any more. ``reasons`` says of each of its servers why."""

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(reasons.values()))
        self.reasons = reasons


class Link:
    """``ranks`` are the servers, and how many ranks each brings into ``group``.

    Every wait ends after ``timeout_s``. After a LinkError the link must not be used again.
    """

    def __init__(
        self, control: Control, group: SendGroup, ranks: dict[str, int], *, timeout_s: float
    ) -> None:
        self.servers = tuple(ranks)
        self._ranks = ranks
        self._control = control
        self._group = group
        self._timeout_s = timeout_s

    def join(self) -> None:
        """Raises LinkError unless every server joins."""
        replies: dict[str, Future[Any]] = {}
        offset = 1
        for url, ranks in self._ranks.items():
            body = {
                "master_address": self._group.address,
                "master_port": self._group.port,
                "rank_offset": offset,
                "world_size": self._group.world_size,
                "group_name": self._group.name,
                "backend": self._group.backend,
            }
            replies[url] = self._post(url, "/init_weights_update_group", body)
            offset += ranks
        self._require(in_background(self._group.join), replies)

    def send(self, bucket: Bucket) -> None:
        """Return when the bucket is in use. Raises LinkError."""
        body = {
            "names": [spec.name for spec in bucket.specs],
            "dtypes": [spec.dtype_name for spec in bucket.specs],
            "shapes": [list(spec.shape) for spec in bucket.specs],
            "group_name": self._group.name,
            "load_format": "flattened_bucket",
            "flush_cache": False,  # once, at the end
        }
        path = "/update_weights_from_distributed"
        replies = {url: self._post(url, path, body) for url in self.servers}
        self._require(in_background(self._group.broadcast, bucket.data), replies)

    def close(self) -> None:
        """Forget the group on both sides, as far as its servers still answer."""
        self._group.abort()
        body = {"group_name": self._group.name}
        wait([self._post(url, "/destroy_weights_update_group", body) for url in self.servers], _ANSWER_S)

    def _post(self, url: str, path: str, body: object) -> Future[Any]:
        return in_background(self._control.post, url, path, body, timeout_s=self._timeout_s)

    def _require(self, ours: Future[None], replies: dict[str, Future[Any]]) -> None:
        """Our part and every reply, all well and in time."""
        wait([ours, *replies.values()], self._timeout_s, FIRST_EXCEPTION)
        if all(future.done() and future.exception() is None for future in (ours, *replies.values())):
            return
        self._group.abort()
        wait(replies.values(), _ANSWER_S)
        raise LinkError({url: self._reason(url, ours, reply) for url, reply in replies.items()})

    def _reason(self, url: str, ours: Future[None], reply: Future[Any]) -> str:
        """What a server said, or else what became of the broadcast."""
        if reply.done() and reply.exception() is not None:
            return str(reply.exception())
        if ours.done() and ours.exception() is not None:
            return f"the broadcast to {url} failed: {str(ours.exception()).splitlines()[0]}"
        if not reply.done():
            return f"{url} did not answer within {self._timeout_s:g} s"
        return f"{url} is in one group with a server that failed"
