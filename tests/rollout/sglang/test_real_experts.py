"""A real SGLang server of a mixture takes what the actor learnt, expert by expert, and computes with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.builders import seen
from support.real_server import START_LIMIT_S, start_servers
from support.tiny_hf import save_tiny

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout, close_parallel, init_parallel
from megaent.actor.sizes import Sizes
from megaent.errors import NumericsError
from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.rollout.sglang.client import Client, ClientOptions
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.rollout.sglang.fleet import Fleet, Member
from megaent.rollout.sglang.ledger import Ledger
from megaent.rollout.sglang.server import Server
from megaent.sync.broadcast import BroadcastTransport
from megaent.sync.checksums import Checksums
from megaent.sync.sender import SenderOptions, ServerSender
from megaent.sync.verify import WeightCheck
from megaent.types import Experience, Grade, Group, Prompt, RolloutRequest, SamplingParams

pytestmark = [pytest.mark.full, pytest.mark.timeout(2 * START_LIMIT_S)]

VOCABULARY, CONTEXT = 100, 128
MODELS = {  # with inner sizes that a server on a CPU fills up to a multiple of 32
    "qwen3_moe": {"head_dim": 16, "moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 3,
                  "norm_topk_prob": True},
    "mixtral": {"num_local_experts": 4, "intermediate_size": 80},
}  # fmt: skip

GATES = ("gate_proj.weight", "w1.weight")
UPS = ("up_proj.weight", "w3.weight")
DOWNS = ("down_proj.weight", "w2.weight")


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"family": request.param, "tie": False, "num_hidden_layers": 2} | MODELS[request.param]
    return save_tiny(tmp_path_factory.mktemp(request.param) / "model", **sizes)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    (server,) = start_servers(folder, folder.parent, 1, context_length=CONTEXT)
    yield server
    server.close()


@pytest.fixture(scope="module")
def layout() -> Iterator[Layout]:
    yield init_parallel(Sizes(), device=torch.device("cpu"), timeout_s=60, seed=1)
    close_parallel()


@pytest.fixture
def engine(server: Server) -> Iterator[SGLangEngine]:
    """Every publication is followed by a comparison of checksums."""
    connections = Connections()
    control = Control(connections)
    fleet = Fleet(connections, [Member(url=server.url)], silence_limit_s=120.0)
    transport = BroadcastTransport(control, backend="gloo")
    sender = ServerSender(control, transport, SenderOptions(dtype=torch.float32, device="cpu", check_every=1))
    yield SGLangEngine(
        connections=connections,
        fleet=fleet,
        client=Client(fleet, ClientOptions(vocab_size=VOCABULARY), ledger=Ledger()),
        sender=sender,
        vocab_size=VOCABULARY,
        context_length=CONTEXT,
        colocation=None,
    )
    sender.close()
    connections.close()


def generate(engine: SGLangEngine) -> list[Group]:
    requests = [
        RolloutRequest(
            index=place,
            prompt=Prompt(id=str(place), tokens=(3 + place, 17, 40 + place), text="", answer=""),
            seeds=(0, 1, 2),
        )
        for place in range(4)
    ]
    return engine.generate(requests, SamplingParams(max_new_tokens=24, temperature=1.0))


def graded(groups: list[Group]) -> Experience:
    grades = tuple(Grade(reward=reward, correct=reward > 0) for reward in (1.0, 0.0, 0.0))
    return pack([Group(index=g.index, prompt=g.prompt, responses=g.responses, grades=grades) for g in groups])


def test_a_server_computes_with_what_the_actor_learnt(
    folder: Path, layout: Layout, engine: SGLangEngine
) -> None:
    actor = MegatronActor(folder, layout, ActorOptions(), AdamOptions(lr=1e-2, clip_grad=0.0))
    for version in (1, 2):
        engine.receive_weights(actor.named_weights(), version=version)
        batch = graded(generate(engine))
        scored = actor.score(batch, temperature=1.0)
        assert scored.log_prob_old is not None
        assert batch.log_prob_engine is not None
        assert float((scored.log_prob_old - batch.log_prob_engine).abs().max()) < 1e-4
        method = build_method({"grpo": {}}).phases[0].method
        terms, _ = estimate(method, seen(scored, population=layout))
        actor.update(scored, terms, method.loss, temperature=1.0, num_minibatches=1)
        moved = actor.score(batch, temperature=1.0).log_prob_old - batch.log_prob_engine
        assert float(moved.abs().max()) > 1e-2, "weights that do not move test nothing"


def test_two_experts_in_each_others_place_are_found(
    folder: Path, layout: Layout, server: Server, engine: SGLangEngine
) -> None:
    """Each projection, by the checksums that would be expected had they been sent so."""
    actor = MegatronActor(folder, layout, ActorOptions(), AdamOptions(lr=0.0))
    weights = dict(actor.named_weights())
    engine.receive_weights(weights.items(), version=1)
    connections = Connections()
    control = Control(connections)
    for suffixes, stack in ((GATES, "w13_weight"), (UPS, "w13_weight"), (DOWNS, "w2_weight")):
        one, other = [n for n in weights if ".layers.1." in n and ".experts." in n and n.endswith(suffixes)][
            :2
        ]
        checksums = Checksums("cpu")
        exchanged = weights | {one: weights[other], other: weights[one]}
        assert len(list(checksums.watch(exchanged.items()))) == len(weights)
        with pytest.raises(NumericsError, match=rf"layers\.1\..*experts\.{stack}"):
            WeightCheck(control, checksums)(server.url)
    connections.close()
