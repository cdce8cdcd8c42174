"""From ``rollout=sglang`` to an engine: servers started or found, asked what they are, and bound together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from megaent.errors import ConfigError, EngineError
from megaent.model_folder.architecture import read_architecture
from megaent.rollout.options import Leader
from megaent.rollout.sglang.client import Client, ClientOptions
from megaent.rollout.sglang.colocation import Colocation
from megaent.rollout.sglang.connection import Connections, server_url
from megaent.rollout.sglang.control import Control, PauseMode
from megaent.rollout.sglang.engine import SGLangEngine, WeightSender
from megaent.rollout.sglang.fleet import Fleet, Member
from megaent.rollout.sglang.follower import Follower
from megaent.rollout.sglang.ledger import Ledger
from megaent.rollout.sglang.options import SGLangOptions
from megaent.rollout.sglang.server import KEPT_BY_SGLANG, Server, ServerOptions, torch_of
from megaent.sync.broadcast import BroadcastTransport
from megaent.sync.disk import DiskTransport
from megaent.sync.ipc import IpcTransport
from megaent.sync.sender import SenderOptions, ServerSender, Transport

_SGLANG_WATCHDOG_S = 300.0  # its own choice
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def start_sglang(options: SGLangOptions, leader: Leader) -> SGLangEngine:
    """An engine whose servers generate, and have none of this run's weights yet.

    Raises ConfigError, MissingDependency or EngineError; no server of ours is left behind then.
    """
    _require_gpus(options, leader.device.type)
    _require_same_rotary(leader.model)
    connections = Connections(api_key=_api_key(options), max_connections=2 * options.concurrency)
    control = Control(connections, timeout_s=options.sync.timeout_s)
    members: list[Member] = []
    try:
        members += _members(options, leader)
        facts = [_Facts(control, member, options.dtype or leader.dtype) for member in members]
        return SGLangEngine(
            connections=connections,
            fleet=(fleet := Fleet(connections, members, silence_limit_s=options.silence_limit_s)),
            client=Client(
                fleet,
                ClientOptions(
                    vocab_size=leader.vocab_size,
                    concurrency=options.concurrency,
                    request_timeout_s=options.request_timeout_s,
                    attempts=options.attempts,
                    honours_seeds=all(fact.honours_seeds for fact in facts),
                    keeps_cache=options.sync.pause == "in_place",
                ),
                ledger=Ledger(leader.run / "rollouts" / f"ledger-{leader.number}.jsonl"),
            ),
            sender=_sender(options, leader, control, device=facts[0].device),
            vocab_size=leader.vocab_size,
            context_length=min(leader.context_length, *(fact.context_length for fact in facts)),
            colocation=Colocation(control) if options.colocated else None,
        )
    except BaseException:
        for member in members:
            if member.server is not None:
                member.server.close()
        connections.close()
        raise


def _require_gpus(options: SGLangOptions, device: str) -> None:
    """Before a server is started for what it cannot do."""
    for option, is_set in (
        ("colocated=true", options.colocated),
        ("sync.transport=ipc", options.sync.transport == "ipc"),
    ):
        if is_set and device != "cuda":
            raise ConfigError(
                f"rollout.{option} is about GPUs' memory and cannot be used with device={device}"
            )


def _api_key(options: SGLangOptions) -> str:
    variable = options.api_key_variable
    if not variable:
        return ""
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(f"rollout.api_key_variable names {variable}, which the environment does not hold")
    return key


def _members(options: SGLangOptions, leader: Leader) -> list[Member]:
    if options.router:
        return [Member(url=server_url(options.router), is_router=True)]
    if options.urls:
        return [Member(url=server_url(url)) for url in options.urls]
    servers: list[Server] = []
    try:
        for number in range(options.servers):
            servers.append(Server(_server_options(options, leader, number)))
        for server in servers:
            server.wait_until_ready()
    except BaseException:
        for server in servers:
            server.close()
        raise
    return [Member(url=server.url, server=server) for server in servers]


def _require_same_rotary(model: Path) -> None:
    """SGLang 0.5.23 computes `dynamic` for one fixed length, transformers for the length that there is."""
    if read_architecture(model).rotary.kind == "dynamic":
        raise ConfigError(
            f"{model / 'config.json'} has rope_type dynamic, which SGLang computes otherwise than the model "
            "was trained; take rollout=embedded, or a model with yarn"
        )


def _server_options(options: SGLangOptions, leader: Leader, number: int) -> ServerOptions:
    return ServerOptions(
        python=_python(options),
        model=leader.model,
        log=leader.run / "rollouts" / f"server-{leader.number}-{number}.log",
        dtype=options.dtype or leader.dtype,
        device=leader.device.type,
        context_length=min(options.context_length or leader.context_length, leader.context_length),
        max_running_requests=options.max_running_requests,
        threads=options.threads,
        start_timeout_s=options.start_timeout_s,
        arguments=_arguments(options, leader, number),
    )


def _python(options: SGLangOptions) -> Path:
    """The servers' interpreter."""
    checkout = Path(__file__).parents[2]
    return Path(options.python or checkout / ".venv-sglang" / "bin" / "python")


def _arguments(options: SGLangOptions, leader: Leader, number: int) -> Mapping[str, Any]:
    """SGLang's own, of the server ``number`` of this leader."""
    arguments = outlasting_pauses(options)
    if leader.device.type != "cuda":
        return arguments
    memory = {"enable_memory_saver": True} if options.colocated else {}
    return on_own_gpus({**arguments, **memory}, leader.place * options.servers + number)


def outlasting_pauses(options: SGLangOptions) -> Mapping[str, Any]:
    """SGLang 0.5.23 takes a response that is paused in place for one that hangs, and ends the server."""
    if options.sync.pause != "in_place":
        return options.server_args
    longest_s = max(_SGLANG_WATCHDOG_S, 2 * options.sync.timeout_s)  # the buckets, and what follows them
    return {"watchdog_timeout": longest_s, **options.server_args}


def on_own_gpus(arguments: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Each server of a machine takes the GPUs after those of the one before it, from ``base_gpu_id`` on."""
    num_gpus = int(arguments.get("tp_size", 1)) * int(arguments.get("pp_size", 1))
    first = int(arguments.get("base_gpu_id", 0))
    return {**arguments, "base_gpu_id": first + place * num_gpus}


class _Facts:
    """What a server says of itself, compared with what it should be; behind a router the first one speaks."""

    def __init__(self, control: Control, member: Member, dtype: str) -> None:
        url = control.workers(member.url)[0] if member.is_router else member.url
        info: Any = control.get(url, "/server_info")
        if not isinstance(info, dict):
            raise EngineError(f"{url}/server_info describes no SGLang server")
        if info.get("dtype") not in ("auto", dtype):
            raise ConfigError(
                f"{url} serves {info.get('dtype')}, rollout.dtype is {dtype}; start it with --dtype {dtype}"
            )
        length = info.get("context_length")
        self.context_length = int(length) - KEPT_BY_SGLANG if length else 1 << 40
        self.honours_seeds = bool(info.get("enable_deterministic_inference"))
        self.device = str(info.get("device", "cuda"))


def _sender(options: SGLangOptions, leader: Leader, control: Control, *, device: str) -> WeightSender:
    sync = options.sync
    if leader.number > 0 and not options.starts_servers:
        return Follower(control, timeout_s=sync.timeout_s)
    transport: Transport
    if sync.transport == "disk":
        folder = leader.run / "rollouts" / f"weights-{leader.number}"
        transport = DiskTransport(control, folder, timeout_s=sync.timeout_s)
    elif sync.transport == "ipc":
        transport = IpcTransport(control, server_torch=torch_of(_python(options)), timeout_s=sync.timeout_s)
    else:
        transport = BroadcastTransport(
            control,
            backend="gloo" if device == "cpu" else "nccl",
            address=sync.address,
            timeout_s=sync.timeout_s,
        )
    pause: PauseMode = sync.pause  # type: ignore[assignment]
    return ServerSender(
        control,
        transport,
        SenderOptions(
            dtype=_DTYPES[options.dtype or leader.dtype],
            device="cpu" if device == "cpu" else "cuda",
            pause=pause,
            bucket_bytes=sync.bucket_mib * 2**20,
            only_changed=sync.only_changed,
            check_every=sync.check_every if sync.checksums else 0,
        ),
    )
