"""The fake engine behaves as an engine must, and repeats itself."""

from __future__ import annotations

import math

import pytest
import torch

from megaent.errors import DataError, EngineError
from megaent.rollout.fake import FakeEngine
from megaent.types import Prompt, RolloutRequest, SamplingParams


def requests(prompts: int = 4, group_size: int = 8) -> list[RolloutRequest]:
    return [
        RolloutRequest(
            index=index,
            prompt=Prompt(id=f"p/{index}", tokens=(1, 2, 3), text="", answer=""),
            seeds=tuple(range(100 * index, 100 * index + group_size)),
        )
        for index in range(prompts)
    ]


def test_equal_seeds_give_equal_responses_whatever_was_asked_beside() -> None:
    sampling = SamplingParams(max_new_tokens=12, stop_token_ids=(0,))
    first = FakeEngine(16).generate(requests(), sampling)
    engine = FakeEngine(16)
    engine.generate(requests(2, 3), sampling)
    backwards = engine.generate(requests()[::-1], sampling)
    assert backwards[::-1] == first
    assert len({response.tokens for group in first for response in group.responses}) > 24


def test_a_shorter_limit_gives_a_prefix() -> None:
    long = FakeEngine(16).generate(requests(), SamplingParams(max_new_tokens=12))
    short = FakeEngine(16).generate(requests(), SamplingParams(max_new_tokens=5))
    for a, b in zip(long, short, strict=True):
        assert [r.tokens[:5] for r in a.responses] == [r.tokens for r in b.responses]


def test_groups_keep_the_order_and_shape_of_their_requests() -> None:
    asked = requests(3, 5)
    groups = FakeEngine(16).generate(asked, SamplingParams(max_new_tokens=4))
    assert [(group.index, group.prompt) for group in groups] == [(r.index, r.prompt) for r in asked]
    assert [len(group.responses) for group in groups] == [5, 5, 5]
    assert all(group.grades == () for group in groups)


def test_log_prob_is_that_of_the_uniform_distribution() -> None:
    (group,) = FakeEngine(16).generate(requests(1), SamplingParams(max_new_tokens=6))
    for response in group.responses:
        assert response.log_prob == (-math.log(16),) * 6
        assert all(0 <= token < 16 for token in response.tokens)


def test_stop_tokens_end_responses_and_both_ends_occur() -> None:
    sampling = SamplingParams(max_new_tokens=6, stop_token_ids=(3, 5))
    groups = FakeEngine(64).generate(requests(8), sampling)
    responses = [response for group in groups for response in group.responses]
    for response in responses:
        assert not set(response.tokens[:-1]) & {3, 5}
        assert (response.tokens[-1] in (3, 5)) == (response.finish == "stop")
        assert response.finish == "stop" or len(response.tokens) == 6
        assert len(response.log_prob) == len(response.tokens)
    assert {response.finish for response in responses} == {"stop", "length"}
    assert {len(response.tokens) for response in responses} == {1, 2, 3, 4, 5, 6}


def test_weights_are_read_to_the_end_and_the_version_is_stamped() -> None:
    engine = FakeEngine(16)
    read = []
    engine.receive_weights(((name, torch.zeros(1)) for name in ("a", "b") if not read.append(name)), 7)
    assert read == ["a", "b"]
    (group,) = engine.generate(requests(1), SamplingParams(max_new_tokens=2))
    assert engine.version == 7
    assert {response.version for response in group.responses} == {7}


def test_it_refuses_what_an_engine_refuses() -> None:
    engine = FakeEngine(3, context_length=8)
    with pytest.raises(DataError, match="prompt 'p/0' holds token 3"):
        engine.generate(requests(1), SamplingParams(max_new_tokens=2))
    with pytest.raises(DataError, match="context of 8"):
        FakeEngine(16, context_length=8).generate(requests(1), SamplingParams(max_new_tokens=6))


def test_a_closed_engine_says_so() -> None:
    engine = FakeEngine(16)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.generate(requests(1), SamplingParams(max_new_tokens=2))
