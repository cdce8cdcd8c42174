"""Several server processes: who gets a group, and what becomes of it when servers die, stall or return."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest
from support.faulty_server import FaultyServer, continuation

from megaent.errors import EngineError
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.types import Group, RolloutRequest, SamplingParams

pytestmark = pytest.mark.full  # several processes in every test

SAMPLING = SamplingParams(max_new_tokens=6)
Start = Callable[[], FaultyServer]
Make = Callable[..., SGLangEngine]
Ask = Callable[..., list[RolloutRequest]]


def check(engine: SGLangEngine, groups: list[Group], requests: list[RolloutRequest]) -> None:
    """Nothing is lost and nothing is there twice."""
    assert [group.prompt.id for group in groups] == [request.prompt.id for request in requests]
    for group, request in zip(groups, requests, strict=True):
        right = continuation(request.prompt.tokens, SAMPLING.max_new_tokens)
        assert [list(response.tokens) for response in group.responses] == [right] * len(request.seeds)
    total = engine.ledger.total
    assert total.asked == total.answered
    assert total.attempts == total.answered + total.failed


def prompts_asked(server: FaultyServer) -> set[int]:
    return {asked["body"]["input_ids"][0] for asked in server.asked()}


def soon(action: Callable[[], object], *, after_s: float) -> threading.Timer:
    timer = threading.Timer(after_s, action)
    timer.start()
    return timer


def test_a_group_stays_at_one_server_and_all_servers_are_used(
    start_faulty: Start, make_engine: Make, ask: Ask
) -> None:
    servers = [start_faulty() for _ in range(3)]
    for server in servers:
        server.state(delay_s=0.02)
    engine = make_engine(*(server.url for server in servers), concurrency=12)
    requests = ask(12, 4)
    check(engine, engine.generate(requests, SAMPLING), requests)
    asked = [prompts_asked(server) for server in servers]
    assert all(asked)
    assert sum(map(len, asked)) == 12


def test_two_of_three_servers_are_killed_in_the_middle(
    start_faulty: Start, make_engine: Make, ask: Ask
) -> None:
    servers = [start_faulty() for _ in range(3)]
    for server in servers:
        server.state(delay_s=0.3)
    engine = make_engine(*(server.url for server in servers))
    timers = [soon(server.close, after_s=0.2) for server in servers[:2]]
    requests = ask(9, 4)
    check(engine, engine.generate(requests, SAMPLING), requests)
    for timer in timers:
        timer.join()
    assert engine.ledger.total.failed > 0


def test_the_last_server_is_killed(start_faulty: Start, make_engine: Make, ask: Ask) -> None:
    server = start_faulty()
    server.state(delay_s=0.3)
    engine = make_engine(server.url)
    timer = soon(server.close, after_s=0.1)
    with pytest.raises(EngineError, match=rf"no SGLang server is left \({server.url}"):
        engine.generate(ask(2, 2), SAMPLING)
    timer.join()


def test_a_server_that_stands_still_is_left_and_comes_back(
    start_faulty: Start, make_engine: Make, ask: Ask
) -> None:
    stalled, other = start_faulty(), start_faulty()
    for server in (stalled, other):
        server.state(delay_s=0.1)
    engine = make_engine(stalled.url, other.url, concurrency=4)
    timer = soon(lambda: stalled.signal(signal.SIGSTOP), after_s=0.2)
    requests = ask(8, 2)
    check(engine, engine.generate(requests, SAMPLING), requests)
    timer.join()
    assert engine.ledger.total.failed > 0

    stalled.signal(signal.SIGCONT)
    before = len(stalled.asked())
    check(engine, engine.generate(requests, SAMPLING), requests)
    assert len(stalled.asked()) > before


def test_the_only_server_stands_still_for_a_while(start_faulty: Start, make_engine: Make, ask: Ask) -> None:
    server = start_faulty()
    server.state(delay_s=0.2)
    engine = make_engine(server.url, silence_limit_s=3.0)
    timers = [
        soon(lambda: server.signal(signal.SIGSTOP), after_s=0.1),
        soon(lambda: server.signal(signal.SIGCONT), after_s=4.0),
    ]
    requests = ask(2, 2)
    check(engine, engine.generate(requests, SAMPLING), requests)
    for timer in timers:
        timer.join()


def test_a_paused_server_is_waited_for(start_faulty: Start, make_engine: Make, ask: Ask) -> None:
    """Its health is 503 for longer than the limit of silence, and then at the next publication."""
    server = start_faulty()
    engine = make_engine(server.url, silence_limit_s=2.0)
    server.state(delay_s=6.0, is_paused=True)
    requests = ask(2, 1)
    check(engine, engine.generate(requests, SAMPLING), requests)
    assert engine.ledger.total.failed == 0
    following = make_engine(server.url, silence_limit_s=2.0)
    server.state(delay_s=0.0)
    check(following, following.generate(requests, SAMPLING), requests)


def test_a_server_that_began_anew_is_not_used_before_it_has_weights(
    start_faulty: Start, make_engine: Make, ask: Ask
) -> None:
    again, other = start_faulty(), start_faulty()
    other.state(delay_s=0.05)
    engine = make_engine(again.url, other.url, concurrency=2)
    again.close()
    again.restart()
    requests = ask(4, 2)
    check(engine, engine.generate(requests, SAMPLING), requests)
    first = len(again.asked())
    check(engine, engine.generate(requests, SAMPLING), requests)
    assert len(again.asked()) == first, "asked although it is known to hold other weights"

    engine.receive_weights([], version=2)
    groups = engine.generate(requests, SAMPLING)
    check(engine, groups, requests)
    assert len(again.asked()) > first
    assert {response.version for group in groups for response in group.responses} == {2}


def test_a_server_that_did_not_take_the_weights_is_not_used(
    start_faulty: Start, make_engine: Make, ask: Ask
) -> None:
    stalled, other = start_faulty(), start_faulty()
    engine = make_engine(stalled.url, other.url)
    stalled.state(keeps_version=True)  # also when what was sent while it stood still is read at last
    stalled.signal(signal.SIGSTOP)
    engine.receive_weights([], version=2)
    stalled.signal(signal.SIGCONT)
    requests = ask(4, 2)
    check(engine, engine.generate(requests, SAMPLING), requests)
    assert stalled.asked() == []


def test_another_run_that_publishes_to_the_server_is_noticed(
    start_faulty: Start, make_engine: Make, ask: Ask
) -> None:
    server = start_faulty()
    engine = make_engine(server.url)
    server.state(version="7")
    with pytest.raises(EngineError, match=r"no SGLang server is left .*(version 7|weights '7')"):
        engine.generate(ask(1, 1), SAMPLING)


def test_groups_leave_a_server_that_answers_in_errors(
    start_faulty: Start, make_engine: Make, ask: Ask
) -> None:
    sick, other = start_faulty(), start_faulty()
    sick.state(faults=["error 500"] * 1000)
    engine = make_engine(sick.url, other.url)
    requests = ask(6, 3)
    check(engine, engine.generate(requests, SAMPLING), requests)
    assert prompts_asked(other) == set(range(1, 7))
