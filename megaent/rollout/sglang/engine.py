"""The SGLang engine: a fleet of servers behind the seam that the trainer knows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from megaent.errors import EngineError, MegaentError
from megaent.rollout.sampling import require_prompts, require_sampling
from megaent.rollout.sglang.client import Client
from megaent.rollout.sglang.colocation import Colocation
from megaent.rollout.sglang.connection import Connections, UnavailableError
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.fleet import Fleet, Member
from megaent.rollout.sglang.ledger import Ledger
from megaent.rollout.sglang.prompt_log_probs import read_log_probs, request_of
from megaent.types import Group, Metrics, RolloutRequest, SamplingParams

log = logging.getLogger(__name__)


class Sent(Protocol):
    """What came of sending weights."""

    @property
    def failed(self) -> Mapping[str, str]:
        """Servers that did not take them: address -> why. They get a full set at the next sending."""
        ...

    def metrics(self) -> Metrics: ...


class WeightSender(Protocol):
    def send(
        self, named_tensors: Iterable[tuple[str, Tensor]], version: int, *, servers: Sequence[str]
    ) -> Sent:
        """Put every tensor into every server, under the number ``version``, and forget cached prefixes.

        Reads the stream to its end whatever happens, because other ranks have a part in producing it.
        Raises EngineError when no server took the weights.
        """
        ...

    def close(self) -> None: ...


class SGLangEngine:
    """Samples from SGLang servers. ``context_length`` and ``vocab_size`` are the model's."""

    takes_weights_while_generating = True

    def __init__(
        self,
        *,
        connections: Connections,
        fleet: Fleet,
        client: Client,
        sender: WeightSender,
        vocab_size: int,
        context_length: int,
        colocation: Colocation | None = None,
    ) -> None:
        self.version = -1
        self._connections = connections
        self._fleet = fleet
        self._client = client
        self._sender = sender
        self._control = Control(connections)
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._colocation = colocation

    @property
    def ledger(self) -> Ledger:
        return self._client.ledger

    def generate(self, requests: Sequence[RolloutRequest], sampling: SamplingParams) -> list[Group]:
        """One ungraded group per request, in the order of the requests, responses in the order of seeds."""
        if self.version < 0:
            raise EngineError("the SGLang servers have no weights of this run yet; publish a full set")
        require_sampling(sampling, vocab_size=self._vocab_size)
        # A token outside the vocabulary would end the server, not the request.
        require_prompts(
            requests,
            max_new_tokens=sampling.max_new_tokens,
            vocab_size=self._vocab_size,
            context_length=self._context_length,
        )
        return self._connections.run(self._client.generate(requests, sampling, version=self.version))

    def receive_weights(self, named_tensors: Iterable[tuple[str, Tensor]], version: int) -> Metrics:
        """Send every tensor to every server, those that ended and are started again included.

        Raises EngineError when no server took them; one that did not is asked nothing until it has.
        """
        stream = iter(named_tensors)
        try:
            self._fleet.restart_dead()
            self._fleet.newest = version
            members = self._connections.run(self._fleet.reachable())
            servers = self._servers(members)
            if self._colocation is not None:
                self._colocation.resume("weights", servers)
            sent = self._sender.send(stream, version, servers=servers)
            if self._colocation is not None:
                self._colocation.resume("kv_cache", [url for url in servers if url not in sent.failed])
        except MegaentError:
            self.version = -1
            raise
        finally:
            # Other ranks gather the tensors together with this one and would wait for it.
            for _ in stream:
                pass
        if sent.failed and any(member.is_router for member in members):
            reasons = "; ".join(f"{url}: {why}" for url, why in sent.failed.items())
            raise EngineError(
                f"servers behind the router did not take the weights of version {version} ({reasons}); the "
                "router would go on asking them: take them out of it, or start them anew, and resume"
            )
        self._connections.run(self._fleet.took_weights(version, members, sent.failed))
        self.version = version
        return sent.metrics()

    def log_probs(self, tokens: Sequence[int]) -> dict[str, list[float]]:
        """By server with the newest weights: log-prob of each token but the first, nats, temperature 1.

        One that does not answer is left out; whoever generates will find out what it is good for.
        """
        body = request_of(tokens, extra_key=f"agreement {self._fleet.cache_key}")
        servers = self._servers(self._fleet.in_use())
        calls = self._control.begin_post("/generate", dict.fromkeys(servers, body))
        found = {}
        for server, outcome in calls.outcomes().items():
            if isinstance(outcome, UnavailableError):
                log.warning("not compared with the actor: %s", outcome)
                continue
            if isinstance(outcome, EngineError):
                raise outcome
            found[server] = read_log_probs(outcome, tokens, server=server)
        return found

    def rest(self) -> None:
        """Servers that share the trainer's devices give up weights and caches until new weights come."""
        if self._colocation is not None:
            self._colocation.release(self._servers(self._fleet.in_use()))

    def close(self) -> None:
        """End the servers that are ours, and every connection."""
        self._sender.close()
        self._fleet.close()
        self._connections.close()

    def _servers(self, members: Sequence[Member]) -> list[str]:
        """Where weights go: the members themselves, or the servers behind a router."""
        found: list[str] = []
        for member in members:
            found += self._control.workers(member.url) if member.is_router else [member.url]
        if not found:
            raise EngineError(f"no SGLang server is left to take weights ({self._fleet.losses()})")
        return found
