"""Every request that the library makes is one that SGLang's own code accepts, and reads whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import sglang_contract
from support.faulty_server import VOCABULARY, FaultyServer
from support.real_server import PYTHON, Truth, require_sglang
from support.tiny_hf import save_tiny
from support.weight_server import WeightServer

from megaent.rollout.sglang.client import Client, ClientOptions
from megaent.rollout.sglang.colocation import Colocation
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.fleet import Fleet, Member
from megaent.rollout.sglang.ledger import Ledger
from megaent.sync.broadcast import BroadcastTransport
from megaent.sync.disk import DiskTransport
from megaent.sync.sender import SenderOptions, ServerSender
from megaent.types import Prompt, RolloutRequest, SamplingParams

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


class Recording(Connections):
    """Keeps what was asked, by method, path and body."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str, Any]] = []

    async def request(self, method: str, url: str, body: object = None, **options: Any) -> Any:
        path = "/" + url.split("://", 1)[1].partition("/")[2]
        self.asked.append((method, path, json.loads(json.dumps(body))))
        return await super().request(method, url, body, **options)


@pytest.fixture
def recording() -> Iterator[Recording]:
    connections = Recording()
    yield connections
    connections.close()


def refused_by_sglang(asked: list[tuple[str, str, Any]]) -> list[str]:
    require_sglang()
    done = subprocess.run(
        [str(PYTHON), "-P", sglang_contract.__file__],
        input=json.dumps(asked),
        env=os.environ | {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def generate(recording: Recording) -> None:
    """With every option that shapes a body."""
    server = FaultyServer()
    try:
        server.state(version="1", faults=["abort 2"])
        fleet = Fleet(recording, [Member(url=server.url, why_lost="")], silence_limit_s=5.0)
        fleet.version = fleet.newest = 1
        options = ClientOptions(vocab_size=VOCABULARY, honours_seeds=True)
        client = Client(fleet, options, ledger=Ledger())
        prompt = Prompt(id="p", tokens=(1, 2), text="", answer="")
        plain = SamplingParams(max_new_tokens=4)
        for sampling in (plain, replace(plain, temperature=0.0, top_p=0.5, stop_token_ids=(3, 4))):
            request = RolloutRequest(index=0, prompt=prompt, seeds=(2**63 - 1,))
            recording.run(client.generate([request], sampling, version=1))
        control = Control(recording)
        control.model_info(server.url)
        for mode in ("in_place", "retract", "abort"):
            control.post_all([server.url], "/pause_generation", {"mode": mode})
        control.post_all([server.url], "/continue_generation", {})
        control.post_all([server.url], "/abort_request", {"abort_all": True})
        control.post_all([server.url], "/flush_cache", {})
        colocation = Colocation(control)
        colocation.release([server.url])
        colocation.resume("weights", [server.url])
        colocation.resume("kv_cache", [server.url])
    finally:
        server.close()


def publish(recording: Recording, folder: Path) -> None:
    """By both transports, with all checks."""
    weights = Truth(save_tiny(folder / "model", family="qwen2", tie=True)).weights()
    control = Control(recording)
    for transport in (
        BroadcastTransport(control, backend="gloo"),
        DiskTransport(control, folder / "weights"),
    ):
        server = WeightServer({name: tuple(tensor.shape) for name, tensor in weights})
        sender = ServerSender(control, transport, SenderOptions(dtype=torch.float32, device="cpu"))
        try:
            assert not sender.send(weights, 1, servers=[server.url]).failed
            sender.close()
        finally:
            server.close()


def test_sglang_accepts_and_reads_every_request(recording: Recording, tmp_path: Path) -> None:
    generate(recording)
    publish(recording, tmp_path)
    paths = {path for _, path, _ in recording.asked}
    assert paths >= {"/generate", "/pause_generation", "/begin_weight_update", "/model_info"}
    assert paths >= {"/release_memory_occupation", "/resume_memory_occupation"}
    assert paths >= {"/update_weights_from_distributed", "/update_weights_from_disk", "/weights_checker"}
    assert refused_by_sglang([one for one in recording.asked if one[1] != "/openapi.json"]) == []


def test_a_request_that_is_wrong_would_be_noticed(recording: Recording) -> None:
    generate(recording)
    good = next(body for _, path, body in recording.asked if path == "/generate")
    wrong = [
        ("POST", "/generate", good | {"top_log_probs": 3}),
        ("POST", "/generate", good | {"sampling_params": good["sampling_params"] | {"heat": 1.0}}),
        ("POST", "/generate", good | {"sampling_params": good["sampling_params"] | {"top_p": 7.0}}),
        ("POST", "/generate", good | {"input_ids": "1 2"}),
        ("POST", "/pause_generation", {"mode": "gently"}),
        ("POST", "/release_memory_occupation", {"parts": ["weights"]}),
        ("POST", "/pause_everything", {}),
    ]
    assert len(refused_by_sglang(wrong)) >= len(wrong)
