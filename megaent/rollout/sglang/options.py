"""The schema of ``rollout=sglang``: servers that a run starts, or is given, and how weights reach them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from megaent.options import require
from megaent.rollout.options import RolloutOptions

# Options of servers that this run starts; they have no effect on others.
_OF_OUR_SERVERS = (
    "servers",
    "python",
    "context_length",
    "max_running_requests",
    "threads",
    "start_timeout_s",
    "server_args",
    "colocated",
)


@dataclass
class SyncOptions:
    """How new weights reach the servers."""

    transport: str = "broadcast"  # broadcast | disk (in run.dir, which servers must see) | ipc (own GPUs)
    pause: str = "retract"  # retract | abort | in_place: what becomes of responses under way
    bucket_mib: int = 256  # of weights sent at once
    only_changed: bool = False  # send the tensors that differ from those last sent
    check_every: int = 1  # versions between checks of what arrived and what it computes; 0 never
    checksums: bool = True  # of the servers' memory; false leaves the log-probs of fixed tokens to compare
    log_prob_limit: float = 0.0  # nats, server against actor on fixed tokens; 0: 1e-4 in fp32, 0.5 else
    address: str = "127.0.0.1"  # of this machine, as the servers reach it
    timeout_s: float = 600.0  # of each exchange with a server

    def __post_init__(self) -> None:
        for name, allowed in {
            "transport": ("broadcast", "disk", "ipc"),
            "pause": ("retract", "abort", "in_place"),
        }.items():
            value = getattr(self, name)
            require(
                value in allowed, f"rollout.sync.{name} must be one of {', '.join(allowed)}, got {value!r}"
            )
        for name in ("bucket_mib", "timeout_s"):
            value = getattr(self, name)
            require(value > 0, f"rollout.sync.{name} must be above 0, got {value}")
        for name in ("check_every", "log_prob_limit"):
            value = getattr(self, name)
            require(value >= 0, f"rollout.sync.{name} must be 0 or more, got {value}")
        require(
            self.check_every > 0 or not self.log_prob_limit,
            f"rollout.sync.log_prob_limit={self.log_prob_limit} has no effect with check_every=0",
        )
        require(
            self.check_every > 0 or self.checksums,
            "rollout.sync.checksums=false has no effect with check_every=0",
        )
        require(
            self.transport == "broadcast" or self.address == "127.0.0.1",
            f"rollout.sync.address={self.address} has no effect with rollout.sync.transport={self.transport}",
        )


@dataclass
class SGLangOptions(RolloutOptions):
    """``rollout=sglang``: each data-parallel leader starts servers, or all share what is given."""

    name: str = "sglang"
    servers: int = 1  # started by each leader, on this machine
    urls: list[str] = field(default_factory=list)  # servers that run already
    router: str = ""  # address of an sglang-router; weights go to the servers behind it
    api_key_variable: str = ""  # name of the environment variable that holds their key
    dtype: str = ""  # of the servers' weights; "" takes the model's
    concurrency: int = 256  # requests of a leader under way at once
    request_timeout_s: float = 600.0  # of one attempt at one response
    attempts: int = 4  # failed ones in a row, until a response is given up
    silence_limit_s: float = 60.0  # a server without a sign of life for so long is lost
    python: str = ""  # interpreter of the servers; "" takes that of ./scripts/setup_sglang
    context_length: int = 0  # tokens; 0 takes the model's
    max_running_requests: int = 64  # decoded together by one server
    threads: int = 1  # of one server, on a CPU
    start_timeout_s: float = 600.0
    server_args: dict[str, Any] = field(default_factory=dict)  # SGLang's own options, under its names
    colocated: bool = False  # servers on the trainer's GPUs hold their memory only while they generate
    sync: SyncOptions = field(default_factory=SyncOptions)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "servers",
            "concurrency",
            "request_timeout_s",
            "attempts",
            "silence_limit_s",
            "max_running_requests",
            "threads",
            "start_timeout_s",
        ):
            value = getattr(self, name)
            require(value > 0, f"rollout.{name} must be above 0, got {value}")
        require(
            self.dtype in ("", "float32", "bfloat16", "float16"),
            f"rollout.dtype must be float32, bfloat16 or float16, got {self.dtype!r}",
        )
        require(
            self.context_length >= 0, f"rollout.context_length must be 0 or more, got {self.context_length}"
        )
        require(
            not (self.urls and self.router),
            f"rollout.urls and rollout.router={self.router} exclude each other; the router knows its servers",
        )
        for name, wrong in (("staleness", self.staleness), ("sync.only_changed", self.sync.only_changed)):
            require(
                not (self.colocated and wrong),
                f"rollout.{name}={wrong} cannot be combined with rollout.colocated=true, whose servers give "
                "up their weights while the trainer works",
            )
        if self.starts_servers:
            require(
                not self.api_key_variable,
                f"rollout.api_key_variable={self.api_key_variable} has no effect on servers that this run "
                "starts: they listen on loopback alone; give rollout.urls or rollout.router",
            )
        else:
            given = "rollout.urls" if self.urls else "rollout.router"
            require(
                self.sync.transport != "ipc",
                f"rollout.sync.transport=ipc is for servers that this run starts; {given} takes broadcast",
            )
            for name in self._set_in_vain():
                require(
                    False, f"rollout.{name} has no effect on servers given by {given}; start them with it"
                )

    @property
    def starts_servers(self) -> bool:
        return not self.urls and not self.router

    def _set_in_vain(self) -> list[str]:
        defaults = {item.name: item for item in fields(self)}
        unset = {"server_args": {}} | {
            name: defaults[name].default for name in _OF_OUR_SERVERS if name != "server_args"
        }
        return [name for name in _OF_OUR_SERVERS if getattr(self, name) != unset[name]]
