"""The client against a server process that misbehaves: every response comes once, and is the right one."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.faulty_server import BROKEN, SPOILED, VOCABULARY, FaultyServer, continuation, log_prob

from megaent.errors import DataError, EngineError
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.types import Group, Prompt, RolloutRequest, SamplingParams

SAMPLING = SamplingParams(max_new_tokens=12, stop_token_ids=(15,))
Make = Callable[..., SGLangEngine]
Ask = Callable[..., list[RolloutRequest]]


@pytest.fixture(scope="module")
def one_server() -> Iterator[FaultyServer]:
    started = FaultyServer()
    yield started
    started.close()


@pytest.fixture
def server(one_server: FaultyServer) -> FaultyServer:
    one_server.reset()
    return one_server


def check(groups: list[Group], requests: list[RolloutRequest], sampling: SamplingParams = SAMPLING) -> None:
    """Each group is the whole, right answer to its request."""
    assert [group.index for group in groups] == [request.index for request in requests]
    for group, request in zip(groups, requests, strict=True):
        right = continuation(request.prompt.tokens, sampling.max_new_tokens, sampling.stop_token_ids)
        assert group.prompt == request.prompt
        assert len(group.responses) == len(request.seeds)
        for response in group.responses:
            assert list(response.tokens) == right
            assert response.log_prob == tuple(map(log_prob, right))
            assert response.finish == ("stop" if right[-1] in sampling.stop_token_ids else "length")
            assert response.version == 1


def test_responses_come_in_the_order_of_the_requests(
    server: FaultyServer, make_engine: Make, ask: Ask
) -> None:
    engine = make_engine(server.url)
    requests = ask(20, 3)
    groups = engine.generate(requests, SAMPLING)
    check(groups, requests)
    assert {response.finish for group in groups for response in group.responses} == {"stop", "length"}
    total = engine.ledger.total
    assert (total.asked, total.answered, total.attempts, total.failed) == (60, 60, 60, 0)


@pytest.mark.parametrize("fault", [*SPOILED, *BROKEN])
def test_an_unusable_answer_is_asked_for_again(
    server: FaultyServer, make_engine: Make, ask: Ask, fault: str
) -> None:
    engine = make_engine(server.url)
    server.state(faults=[fault] * 3)
    requests = ask(4, 2)
    check(engine.generate(requests, SAMPLING), requests)
    total = engine.ledger.total
    assert (total.asked, total.answered, total.failed, total.attempts) == (8, 8, 3, 11)


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(
    server: FaultyServer, make_engine: Make, ask: Ask
) -> None:
    engine = make_engine(server.url, request_timeout_s=0.5)
    server.state(faults=["stall"] * 2)
    requests = ask(3, 2)
    check(engine.generate(requests, SAMPLING), requests)
    assert engine.ledger.total.failed == 2


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "a log-prob should be finite"),
        ("outside", "outside the vocabulary of 50"),
        ("short log-probs", "log-probs should come with as many tokens"),
        ("error 500", "500: out of memory"),
        ("error 503", "503: no worker is available"),
    ],
)
def test_a_server_that_never_answers_rightly_ends_the_call_with_its_reason(
    server: FaultyServer, make_engine: Make, ask: Ask, fault: str, said: str
) -> None:
    engine = make_engine(server.url)
    server.state(faults=[fault] * 1000)
    with pytest.raises(EngineError, match=r"prompt 'p/\d': given up after 4 attempts") as raised:
        engine.generate(ask(2, 1), SAMPLING)
    assert said in str(raised.value)
    server.state(faults=[])
    requests = ask(3, 1)
    check(engine.generate(requests, SAMPLING), requests)


def test_a_refusal_is_not_repeated(server: FaultyServer, make_engine: Make, ask: Ask) -> None:
    engine = make_engine(server.url)
    server.state(faults=["refuse"])
    with pytest.raises(EngineError, match="400: the input is too long"):
        engine.generate(ask(1, 1), SAMPLING)
    assert len(server.asked()) == 1


def test_an_aborted_response_goes_on_where_it_stopped(
    server: FaultyServer, make_engine: Make, ask: Ask
) -> None:
    engine = make_engine(server.url)
    sampling = SamplingParams(max_new_tokens=12)
    server.state(faults=["abort 3", "abort 5"])
    requests = ask(1, 1)
    check(engine.generate(requests, sampling), requests, sampling)
    bodies = [asked["body"] for asked in server.asked()]
    assert [body["sampling_params"]["max_new_tokens"] for body in bodies] == [12, 9, 4]
    prompt = list(requests[0].prompt.tokens)
    assert bodies[2]["input_ids"] == prompt + continuation(prompt, 8)
    total = engine.ledger.total
    assert (total.answered, total.attempts, total.continued, total.failed) == (1, 3, 2, 0)


def test_calls_of_several_threads_do_not_mix(server: FaultyServer, make_engine: Make, ask: Ask) -> None:
    """Generation may run several steps ahead of training."""
    engine = make_engine(server.url)
    server.state(delay_s=0.02, faults=["error 500"] * 4)
    requests = ask(8, 2)
    shares = [requests[:3], requests[3:5], requests[5:]]
    with ThreadPoolExecutor(3) as pool:
        drawn = list(pool.map(lambda share: engine.generate(share, SAMPLING), shares))
    for share, groups in zip(shares, drawn, strict=True):
        check(groups, share)
    assert (engine.ledger.total.answered, engine.ledger.total.failed) == (16, 4)


def test_an_engine_that_is_closed_ends_what_is_under_way(
    server: FaultyServer, make_engine: Make, ask: Ask
) -> None:
    engine = make_engine(server.url)
    server.state(faults=["stall"] * 4)
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(engine.generate, ask(2, 2), SAMPLING)
        while len(server.asked()) < 4:
            time.sleep(0.02)
        engine.close()
        with pytest.raises(CancelledError):
            under_way.result(timeout=20)


def test_no_more_requests_than_allowed_are_under_way(
    server: FaultyServer, make_engine: Make, ask: Ask
) -> None:
    engine = make_engine(server.url, concurrency=3)
    server.state(delay_s=0.02)
    engine.generate(ask(5, 4), SAMPLING)
    assert server.most_at_once() == 3


def test_request_ids_are_unique_and_none_begins_another(
    server: FaultyServer, make_engine: Make, ask: Ask
) -> None:
    """SGLang aborts by the beginning of an id."""
    engine = make_engine(server.url)
    server.state(faults=["error 500", "abort 2"])
    engine.generate(ask(12, 2), SAMPLING)
    engine.generate(ask(2, 11), SAMPLING)
    rids = [asked["body"]["rid"] for asked in server.asked()]
    assert len(set(rids)) == len(rids) == 24 + 2 + 22
    assert len({len(rid) for rid in rids}) == 1


def test_the_requests_of_a_group_share_a_routing_key(
    server: FaultyServer, make_engine: Make, ask: Ask
) -> None:
    make_engine(server.url).generate(ask(3, 4), SAMPLING)
    keys: dict[str, set[int]] = {}
    for asked in server.asked():
        keys.setdefault(asked["headers"]["x-smg-routing-key"], set()).add(asked["body"]["input_ids"][0])
    assert sorted(map(tuple, keys.values())) == [(1,), (2,), (3,)]


def test_a_key_is_sent_and_never_said(
    server: FaultyServer, make_engine: Make, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = make_engine(server.url, api_key="hunter-two")
    server.state(faults=["error 500"] * 4)
    with pytest.raises(EngineError) as raised:
        engine.generate(ask(1, 1), SAMPLING)
    assert server.asked()[0]["headers"]["authorization"] == "Bearer hunter-two"
    assert "hunter-two" not in caplog.text + str(raised.value) + repr(vars(engine))


@pytest.mark.parametrize("tokens", [(1, VOCABULARY), (-1,), (1,) * 190])
def test_a_prompt_that_would_end_the_server_is_not_sent(
    server: FaultyServer, make_engine: Make, tokens: tuple[int, ...]
) -> None:
    engine = make_engine(server.url)
    prompt = Prompt(id="p", tokens=tokens, text="", answer="")
    with pytest.raises(DataError, match="prompt 'p'"):
        engine.generate([RolloutRequest(index=0, prompt=prompt, seeds=(0,))], SAMPLING)
    assert server.asked() == []


def test_seeds_are_sent_where_they_are_honoured(server: FaultyServer, make_engine: Make, ask: Ask) -> None:
    make_engine(server.url).generate(ask(1, 2), SAMPLING)
    make_engine(server.url, honours_seeds=True).generate(ask(1, 2), SAMPLING)
    sent = [asked["body"]["sampling_params"].get("sampling_seed") for asked in server.asked()]
    assert sent[:2] == [None, None]
    assert sorted(sent[2:]) == [0, 1]


def test_the_ledger_has_a_line_for_every_call(
    server: FaultyServer, make_engine: Make, ask: Ask, tmp_path: Path
) -> None:
    engine = make_engine(server.url)
    engine.generate(ask(2, 3), SAMPLING)
    server.state(faults=["refuse"])
    with pytest.raises(EngineError):
        engine.generate(ask(1, 1), SAMPLING)
    first, second = map(json.loads, (tmp_path / "ledger.jsonl").read_text().splitlines())
    assert first == {
        "version": 1,
        "asked": 6,
        "answered": 6,
        "attempts": 6,
        "failed": 0,
        "continued": 0,
        "groups": ["p/0", "p/1"],
    }
    assert (second["asked"], second["answered"], second["groups"]) == (1, 0, ["p/0"])
