"""A real SGLang server on the CPU: it draws what the embedded engine draws, and its numbers are right."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from support.real_server import START_LIMIT_S, Truth
from torch import Tensor

from megaent.rollout.embedded.engine import EmbeddedEngine
from megaent.rollout.sampling import nucleus
from megaent.rollout.sglang.connection import Connections
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.engine import SGLangEngine
from megaent.rollout.sglang.fleet import Member
from megaent.rollout.sglang.server import Server
from megaent.rollout.sglang.wire import Question, parse_answer
from megaent.types import Group, Prompt, RolloutRequest, SamplingParams

pytestmark = [pytest.mark.full, pytest.mark.timeout(2 * START_LIMIT_S)]

END = 1  # the demonstration's end of a response
Make = Callable[..., SGLangEngine]


@pytest.fixture
def engine(real_servers: list[Server], make_real_engine: Make) -> SGLangEngine:
    return make_real_engine(Member(url=real_servers[0].url))


def requests_for(prompts: Sequence[Prompt], group_size: int) -> list[RolloutRequest]:
    return [
        RolloutRequest(index=place, prompt=prompt, seeds=tuple(range(group_size)))
        for place, prompt in enumerate(prompts)
    ]


def log_prob_errors(truth: Truth, group: Group, number: int, temperature: float) -> Tensor:
    """[R] nats, of one response."""
    response = group.responses[number]
    right_RV = truth.log_probs(group.prompt.tokens, response.tokens, temperature)
    right_R = right_RV.gather(1, torch.tensor(response.tokens)[:, None])[:, 0]
    return (right_R - torch.tensor(response.log_prob, dtype=torch.float64)).abs()


def test_greedy_responses_are_those_of_the_embedded_engine(
    engine: SGLangEngine, demo_folder: Path, prompts: tuple[Prompt, ...]
) -> None:
    sampling = SamplingParams(max_new_tokens=96, temperature=0.0, stop_token_ids=(END,))
    embedded = EmbeddedEngine(demo_folder, dtype=torch.float32)
    requests = requests_for(prompts, 1)
    theirs, ours = engine.generate(requests, sampling), embedded.generate(requests, sampling)
    for group, expected in zip(theirs, ours, strict=True):
        assert (group.index, group.prompt) == (expected.index, expected.prompt)
        for response, right in zip(group.responses, expected.responses, strict=True):
            assert (response.tokens, response.finish) == (right.tokens, right.finish)
            assert response.log_prob == pytest.approx(right.log_prob, abs=1e-4)
            assert response.version == 1
    assert {response.finish for group in theirs for response in group.responses} >= {"stop"}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.8)])
def test_log_probs_are_those_of_the_model_at_the_temperature(
    engine: SGLangEngine, truth: Truth, prompts: tuple[Prompt, ...], temperature: float, top_p: float
) -> None:
    sampling = SamplingParams(
        max_new_tokens=40, temperature=temperature, top_p=top_p, stop_token_ids=(END,), top_log_probs=3
    )
    for group in engine.generate(requests_for(prompts[:12], 2), sampling):
        for number, response in enumerate(group.responses):
            assert float(log_prob_errors(truth, group, number, temperature).max()) < 1e-4
            top = truth.log_probs(group.prompt.tokens, response.tokens, temperature).topk(3)
            found_R3 = torch.tensor(response.top_log_prob, dtype=torch.float64)
            assert float((found_R3 - top.values).abs().max()) < 1e-4
            # Where two are equally probable either may be named first.
            is_clear_R = (top.values[:, :2].diff().abs() > 1e-3)[:, 0]
            named_R = torch.tensor(response.top_tokens)[:, 0]
            assert torch.equal(named_R[is_clear_R], top.indices[:, 0][is_clear_R])


def chi_square_p_value(count_V: Tensor, probability_V: Tensor) -> float:
    """Of drawing such counts from ``probability_V``; classes rarer than 5 draws are put together."""
    due_V = probability_V * count_V.sum()
    order_V = due_V.argsort(descending=True)
    num_common = int((due_V >= 5.0).sum())
    pools = [[i] for i in order_V[:num_common].tolist()]
    pools[-1] += order_V[num_common:].tolist()
    due_K = torch.stack([due_V[pool].sum() for pool in pools])
    seen_K = torch.stack([count_V[pool].sum() for pool in pools])
    statistic = ((seen_K - due_K) ** 2 / due_K).sum()
    half_freedom = torch.tensor((len(pools) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_freedom, statistic / 2))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.5, 1.0), (1.2, 0.9)])
def test_samples_follow_the_exact_distribution(
    engine: SGLangEngine, truth: Truth, prompts: tuple[Prompt, ...], temperature: float, top_p: float
) -> None:
    """2048 first tokens of one prompt. A right engine fails once in a million runs."""
    sampling = SamplingParams(max_new_tokens=1, temperature=temperature, top_p=top_p)
    (group,) = engine.generate(requests_for(prompts[:1], 2048), sampling)
    weight_1V = truth.log_probs(prompts[0].tokens, (), temperature).exp()
    weight_1V = weight_1V * nucleus(weight_1V, top_p)
    drawn_S = torch.tensor([response.tokens[0] for response in group.responses])
    count_V = torch.bincount(drawn_S, minlength=truth.vocab_size).double()
    assert int(count_V[weight_1V[0] == 0].sum()) == 0, "drawn from outside the nucleus"
    assert int((count_V > 0).sum()) > 3, "a distribution without spread tests nothing"
    assert chi_square_p_value(count_V, weight_1V[0] / weight_1V.sum()) > 1e-6


def test_responses_that_are_aborted_again_and_again_come_out_whole(
    engine: SGLangEngine, real_servers: list[Server], prompts: tuple[Prompt, ...]
) -> None:
    sampling = SamplingParams(max_new_tokens=150, temperature=0.0)
    requests = requests_for(prompts[:6], 2)
    whole = engine.generate(requests, sampling)

    connections = Connections()
    control = Control(connections)

    def disturb() -> None:
        for wait_s in (0.3, 2.0, 2.0):
            time.sleep(wait_s)
            control.post_all([real_servers[0].url], "/abort_request", {"abort_all": True})

    before = engine.ledger.total.continued
    disturber = threading.Thread(target=disturb)
    disturber.start()
    disturbed = engine.generate(requests, sampling)
    disturber.join()
    connections.close()
    assert engine.ledger.total.continued > before
    for group, expected in zip(disturbed, whole, strict=True):
        for response, right in zip(group.responses, expected.responses, strict=True):
            assert response.tokens == right.tokens
            assert response.log_prob == pytest.approx(right.log_prob, abs=1e-4)
            assert response.finish == "length"


def test_a_response_may_fill_the_context_to_its_end(engine: SGLangEngine) -> None:
    prompt = Prompt(id="long", tokens=(5, 9, 7, 8) * 50, text="", answer="")
    request = RolloutRequest(index=0, prompt=prompt, seeds=(0,))
    (group,) = engine.generate([request], SamplingParams(max_new_tokens=56, temperature=0.0))
    assert (len(group.responses[0].tokens), group.responses[0].finish) == (56, "length")


def test_requests_share_a_prefix_under_one_cache_key_alone(
    engine: SGLangEngine, real_servers: list[Server], truth: Truth, prompts: tuple[Prompt, ...]
) -> None:
    engine.receive_weights(truth.weights(), version=1)  # forgets what other tests left in the cache
    connections = Connections()
    control = Control(connections)
    cached = []
    for number, key in enumerate(("a", "a", "b")):
        question = Question(
            rid=f"cache-{number}",
            tokens=prompts[1].tokens,
            sampling=SamplingParams(max_new_tokens=2),
            vocab_size=truth.vocab_size,
            cache_key=key,
        )
        answer = parse_answer(control.post(real_servers[0].url, "/generate", question.body()), question)
        cached.append(answer.cached_tokens)
    connections.close()
    assert cached == [0, len(prompts[1].tokens) - 1, 0]


def test_weights_may_come_in_the_middle_of_responses(
    engine: SGLangEngine, truth: Truth, prompts: tuple[Prompt, ...]
) -> None:
    """Each token's log-prob is that of the weights that drew it.

    How soon a busy machine begins to generate is not known, so several moments are tried.
    """
    others = [(name, tensor if "norm" in name else -tensor) for name, tensor in truth.weights()]
    places: list[int] = []
    for version, pause_s in zip((1, 3, 5, 7), (1.0, 0.4, 2.5, 6.0), strict=True):
        if version > 1:
            engine.receive_weights(truth.weights(), version=version)
        places += _changed_at(engine, truth, prompts, others, version=version, pause_s=pause_s)
        if any(0 < place < 200 for place in places):
            return
    pytest.fail(f"the new weights were not seen in the middle: {places}")


def _changed_at(
    engine: SGLangEngine,
    truth: Truth,
    prompts: tuple[Prompt, ...],
    others: list[tuple[str, torch.Tensor]],
    *,
    version: int,
    pause_s: float,
) -> list[int]:
    """Of each response how many tokens, counted from the first, the old weights drew."""
    drawn: list[Group] = []
    sampling, requests = SamplingParams(max_new_tokens=200, temperature=0.0), requests_for(prompts[:4], 1)
    thread = threading.Thread(target=lambda: drawn.extend(engine.generate(requests, sampling)))
    thread.start()
    time.sleep(pause_s)
    engine.receive_weights(others, version=version + 1)
    thread.join()
    found = []
    for group in drawn:
        assert len(group.responses[0].tokens) == 200
        assert group.responses[0].version in (version, version + 1)
        is_old_R = log_prob_errors(truth, group, 0, 1.0) < 1e-4
        found.append(int(is_old_R.long().cumprod(0).sum()))
    return found


def test_tokens_that_were_given_have_the_log_probs_of_the_model(
    engine: SGLangEngine, real_servers: list[Server], truth: Truth, prompts: tuple[Prompt, ...]
) -> None:
    first, *rest = prompts[0].tokens
    right_RV = truth.log_probs((first,), tuple(rest))
    right = right_RV.gather(1, torch.tensor(rest)[:, None])[:, 0].tolist()
    assert engine.log_probs(prompts[0].tokens) == {real_servers[0].url: pytest.approx(right, abs=1e-4)}


def test_a_server_that_gave_up_its_memory_goes_on_with_the_next_weights(
    real_servers: list[Server], make_real_engine: Make, truth: Truth, prompts: tuple[Prompt, ...]
) -> None:
    engine = make_real_engine(Member(url=real_servers[0].url), colocated=True)
    sampling = SamplingParams(max_new_tokens=40, temperature=0.0, stop_token_ids=(END,))
    requests = requests_for(prompts[:4], 1)
    before = engine.generate(requests, sampling)
    for version in (2, 3):
        engine.rest()
        engine.receive_weights(truth.weights(), version=version)
        after = engine.generate(requests, sampling)
        tokens = [[r.tokens for r in group.responses] for group in after]
        assert tokens == [[r.tokens for r in group.responses] for group in before]
        assert {r.version for group in after for r in group.responses} == {version}
