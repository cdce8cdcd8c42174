"""What real servers draw while weights change, in every pause mode."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
from support.real_server import START_LIMIT_S, Truth
from torch import Tensor

from megaent.errors import EngineError
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control, PauseMode
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.rollout.sglang.fleet import Member
from megaent.rollout.sglang.server import Server
from megaent.types import Group, Prompt, Response, RolloutRequest, SamplingParams

pytestmark = [pytest.mark.full, pytest.mark.timeout(3 * START_LIMIT_S)]

Make = Callable[..., SGLangEngine]
Weights = list[tuple[str, Tensor]]
EXACT = 1e-4  # nats between a server in fp32 and the model here
SAMPLING = SamplingParams(max_new_tokens=40)
LONG = SamplingParams(max_new_tokens=150)
MODES: tuple[PauseMode, ...] = ("retract", "abort", "in_place")


@pytest.fixture
def others(truth: Truth) -> Weights:
    """Weights under which keys, values and probabilities are all other ones."""
    rng = torch.Generator().manual_seed(0)
    return [
        (name, tensor + 0.3 * tensor.std() * torch.randn(tensor.shape, generator=rng))
        for name, tensor in truth.weights()
    ]


def ask(prompts: tuple[Prompt, ...], num_prompts: int, group_size: int) -> list[RolloutRequest]:
    return [
        RolloutRequest(index=place, prompt=prompt, seeds=tuple(range(group_size)))
        for place, prompt in enumerate(prompts[:num_prompts])
    ]


def require_drawn_from(model: Truth, version: int, drawn: list[tuple[Prompt, Response]]) -> None:
    """Each token's log-prob is that of ``model`` given everything before it, and the response says so."""
    for prompt, response in drawn:
        log_prob_RV = model.log_probs(prompt.tokens, response.tokens)
        right_R = log_prob_RV.gather(1, torch.tensor(response.tokens)[:, None])[:, 0]
        assert response.log_prob == pytest.approx(right_R.tolist(), abs=EXACT)
        assert response.version == version


class Drawing:
    """``engine.generate`` in a thread of its own."""

    def __init__(
        self, engine: SGLangEngine, requests: list[RolloutRequest], sampling: SamplingParams
    ) -> None:
        self._drawn: list[Group] = []
        self._error: EngineError | None = None
        self._thread = threading.Thread(target=self._draw, args=(engine, requests, sampling))
        self._thread.start()

    def _draw(self, engine: SGLangEngine, requests: list[RolloutRequest], sampling: SamplingParams) -> None:
        try:
            self._drawn = engine.generate(requests, sampling)
        except EngineError as error:
            self._error = error

    def responses(self) -> list[tuple[Prompt, Response]]:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return [(group.prompt, response) for group in self._drawn for response in group.responses]


def wait_for(control: Control, url: str, *, running: int, waiting: int) -> None:
    """Until so many requests at least run and wait at once."""
    deadline = time.monotonic() + 60.0
    while True:
        load = control.get(url, "/v1/loads")["loads"][0]
        if load["num_running_reqs"] >= running and load["num_waiting_reqs"] >= waiting:
            return
        assert time.monotonic() < deadline, f"the server has never had so much to do: {load}"


@pytest.mark.parametrize("pause", MODES)
def test_no_response_rests_on_older_weights_than_its_version(
    pause: PauseMode,
    real_servers: list[Server],
    make_real_engine: Make,
    control: Control,
    truth: Truth,
    others: Weights,
    prompts: tuple[Prompt, ...],
) -> None:
    """More is asked for than the server runs at once, so that requests wait while it takes the weights."""
    url = real_servers[0].url
    engine = make_real_engine(Member(url=url), pause=pause)
    newer = truth.with_weights(others)
    require_drawn_from(truth, 1, Drawing(engine, ask(prompts, 3, 2), SAMPLING).responses())
    drawing = Drawing(engine, ask(prompts, 3, 32), LONG)
    wait_for(control, url, running=32, waiting=16)
    engine.receive_weights(others, version=2)
    drawn = drawing.responses()
    require_drawn_from(newer, 2, [pair for pair in drawn if pair[1].version > 1])
    assert {response.version for _, response in drawn} == ({1} if pause == "in_place" else {1, 2})
    assert engine.ledger.total.failed == 0
    require_drawn_from(newer, 2, Drawing(engine, ask(prompts, 3, 2), SAMPLING).responses())


@pytest.mark.parametrize("pause", MODES)
def test_the_next_run_takes_nothing_from_the_cache_of_the_last(
    pause: PauseMode,
    real_servers: list[Server],
    make_real_engine: Make,
    truth: Truth,
    others: Weights,
    prompts: tuple[Prompt, ...],
) -> None:
    """A resumed run publishes numbers that the killed one has used, and its weights need not be the same."""
    member = Member(url=real_servers[0].url)
    last = make_real_engine(member, pause=pause)
    require_drawn_from(truth, 1, Drawing(last, ask(prompts, 3, 2), SAMPLING).responses())
    last.log_probs(prompts[0].tokens)
    following = make_real_engine(member, pause=pause)
    following.receive_weights(others, version=1)
    model = truth.with_weights(others)
    require_drawn_from(model, 1, Drawing(following, ask(prompts, 3, 2), SAMPLING).responses())
    (found,) = following.log_probs(prompts[0].tokens).values()
    first, *rest = prompts[0].tokens
    right_RV = model.log_probs((first,), tuple(rest))
    assert found == pytest.approx(right_RV.gather(1, torch.tensor(rest)[:, None])[:, 0].tolist(), abs=EXACT)


@pytest.mark.parametrize("pause", MODES)
def test_a_server_that_was_left_paused_takes_the_next_weights(
    pause: PauseMode,
    real_servers: list[Server],
    make_real_engine: Make,
    control: Control,
    truth: Truth,
    prompts: tuple[Prompt, ...],
) -> None:
    """By a trainer that was killed while it published and a response was under way."""
    url = real_servers[0].url
    killed = Connections()
    params = {"max_new_tokens": 150, "ignore_eos": True}
    body = {"input_ids": list(prompts[0].tokens), "sampling_params": params}
    Control(killed).begin_post("/generate", {url: body})
    wait_for(control, url, running=1, waiting=0)
    control.post(url, "/pause_generation", {"mode": "in_place"})
    control.post(url, "/update_weight_version", {"new_version": "incomplete", "abort_all_requests": False})
    killed.close()
    engine = make_real_engine(Member(url=url), pause=pause)
    require_drawn_from(truth, 1, Drawing(engine, ask(prompts, 3, 2), SAMPLING).responses())


def test_a_pause_longer_than_the_silence_limit_is_no_death(
    real_servers: list[Server], make_real_engine: Make, control: Control, prompts: tuple[Prompt, ...]
) -> None:
    url = real_servers[0].url
    engine = make_real_engine(Member(url=url), silence_limit_s=4.0)
    drawing = Drawing(engine, ask(prompts, 3, 4), LONG)
    wait_for(control, url, running=1, waiting=0)
    control.post(url, "/pause_generation", {"mode": "retract"})
    time.sleep(12.0)
    control.post(url, "/continue_generation", {})
    assert {len(response.tokens) for _, response in drawing.responses()} == {150}
    assert engine.ledger.total.failed == 0


def test_a_server_that_dies_while_it_is_paused_is_lost_within_the_silence_limit(
    real_servers: list[Server], make_real_engine: Make, control: Control, prompts: tuple[Prompt, ...]
) -> None:
    server = real_servers[0]
    engine = make_real_engine(Member(url=server.url), silence_limit_s=4.0)
    drawing = Drawing(engine, ask(prompts, 3, 4), LONG)
    wait_for(control, server.url, running=1, waiting=0)
    control.post(server.url, "/pause_generation", {"mode": "retract"})
    os.killpg(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(EngineError, match=f"no SGLang server is left \\({server.url}.*no answer within"):
            drawing.responses()
    finally:
        os.killpg(server.pid, signal.SIGCONT)
        control.post(server.url, "/continue_generation", {})
