"""Real servers that die, stand still, or stand behind a router."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
from support.real_server import START_LIMIT_S, Truth

from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.rollout.sglang.fleet import Member
from megaent.rollout.sglang.server import Server
from megaent.types import Group, Prompt, RolloutRequest, SamplingParams

pytestmark = [pytest.mark.full, pytest.mark.timeout(3 * START_LIMIT_S)]

LONG = SamplingParams(max_new_tokens=150, temperature=0.0)
Make = Callable[..., SGLangEngine]


@pytest.fixture
def requests(prompts: tuple[Prompt, ...]) -> list[RolloutRequest]:
    return [RolloutRequest(index=i, prompt=prompt, seeds=(0, 1)) for i, prompt in enumerate(prompts)]


def tokens(groups: list[Group]) -> list[list[tuple[int, ...]]]:
    return [[response.tokens for response in group.responses] for group in groups]


def generate_and(
    engine: SGLangEngine, requests: list[RolloutRequest], action: Callable[[], object]
) -> list[Group]:
    """Generate; in the middle of it something happens."""
    timer = threading.Timer(0.5, action)
    timer.start()
    groups = engine.generate(requests, LONG)
    timer.join()
    total = engine.ledger.total
    assert total.asked == total.answered
    assert total.attempts == total.answered + total.failed + total.continued
    assert total.failed > 0, "it came too late"
    return groups


def test_a_server_is_killed_in_the_middle_and_another_takes_its_place(
    real_servers: list[Server],
    make_real_engine: Make,
    requests: list[RolloutRequest],
    truth: Truth,
    control: Control,
) -> None:
    members = [Member(url=server.url, server=server) for server in real_servers]
    engine = make_real_engine(*members)
    whole = engine.generate(requests, LONG)
    killed = real_servers[1]
    broken = generate_and(engine, requests, lambda: os.killpg(killed.pid, signal.SIGKILL))
    assert tokens(broken) == tokens(whole)

    engine.receive_weights(truth.weights(), version=2)
    assert members[1].server is not None
    real_servers[1] = members[1].server
    assert members[1].url != killed.url
    assert control.model_info(members[1].url).weight_version == "2"
    again = engine.generate(requests, LONG)
    assert tokens(again) == tokens(whole)
    assert {response.version for group in again for response in group.responses} == {2}


def test_a_server_that_stands_still_is_left_until_it_moves(
    real_servers: list[Server], make_real_engine: Make, requests: list[RolloutRequest]
) -> None:
    members = [Member(url=server.url, server=server) for server in real_servers]
    engine = make_real_engine(*members, silence_limit_s=15.0)
    whole = engine.generate(requests, LONG)
    try:
        stalled = real_servers[1].pid
        broken = generate_and(engine, requests, lambda: os.killpg(stalled, signal.SIGSTOP))
        assert members[1].why_lost
    finally:
        os.killpg(real_servers[1].pid, signal.SIGCONT)
    assert tokens(broken) == tokens(whole)
    assert tokens(engine.generate(requests, LONG)) == tokens(whole)


def test_behind_a_router_every_server_gets_the_weights(
    router: str,
    real_servers: list[Server],
    make_real_engine: Make,
    requests: list[RolloutRequest],
    control: Control,
) -> None:
    engine = make_real_engine(Member(url=router, is_router=True))
    assert {control.model_info(server.url).weight_version for server in real_servers} == {"1"}
    direct = make_real_engine(Member(url=real_servers[0].url))
    assert tokens(engine.generate(requests, LONG)) == tokens(direct.generate(requests, LONG))
