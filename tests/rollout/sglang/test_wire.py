"""What is asked for in words of the wire, and which answers are believed."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from megaent.errors import ConfigError
from megaent.rollout.sglang.connection import RefusedError, UnavailableError, reason_of, server_url
from megaent.rollout.sglang.wire import Answer, OtherWeightsError, Question, Span, parse_answer
from megaent.types import SamplingParams

SAMPLING = SamplingParams(max_new_tokens=4, temperature=0.7, top_p=0.9, stop_token_ids=(2,), top_log_probs=2)
QUESTION = Question(rid="r-00", tokens=(5, 6), sampling=SAMPLING, vocab_size=10)

GOOD: dict[str, Any] = {
    "output_ids": [7, 8, 2],
    "meta_info": {
        "id": "r-00",
        "finish_reason": {"type": "stop", "matched": 2},
        "cached_tokens": 1,
        "weight_version": "4",
        "weight_versions": [
            {"version": "3", "start": 0, "end": 2},
            {"version": "4", "start": 2, "end": 3},
        ],
        "output_token_logprobs": [[-0.5, 7, None], [-0.25, 8, None], [-1, 2, None]],
        "output_top_logprobs": [
            [[-0.5, 7, None], [-1.0, 3, None]],
            [[-0.25, 8, None], [-2.0, 1, None]],
            [[-0.75, 0, None], [-1.0, 2, None]],
        ],
    },
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The good answer with one place replaced; digits in the path are indices."""
    answer = copy.deepcopy(GOOD)
    *way, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    place: Any = answer
    for part in way:
        place = place[part]
    place[last] = value
    return answer


def test_the_body_says_everything_that_shapes_a_draw() -> None:
    body = Question(
        rid="r-00",
        tokens=(5, 6),
        sampling=SAMPLING,
        vocab_size=10,
        seed=9,
        cache_key="3",
    ).body()
    assert body == {
        "rid": "r-00",
        "input_ids": [5, 6],
        "return_logprob": True,
        "top_logprobs_num": 2,
        "extra_key": "3",
        "sampling_params": {
            "max_new_tokens": 4,
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": -1,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [2],
            "sampling_seed": 9,
        },
    }


def test_without_stop_tokens_the_models_own_end_is_passed_over() -> None:
    body = Question(rid="r", tokens=(1,), sampling=SamplingParams(max_new_tokens=4), vocab_size=10).body()
    assert body["sampling_params"]["ignore_eos"] is True
    assert "stop_token_ids" not in body["sampling_params"]
    assert "top_logprobs_num" not in body


def test_a_good_answer() -> None:
    assert parse_answer(GOOD, QUESTION) == Answer(
        tokens=(7, 8, 2),
        log_prob=(-0.5, -0.25, -1.0),
        finish="stop",
        spans=(Span(3, 0, 2), Span(4, 2, 3)),
        top_tokens=((7, 3), (8, 1), (0, 2)),
        top_log_prob=((-0.5, -1.0), (-0.25, -2.0), (-0.75, -1.0)),
        cached_tokens=1,
    )


def test_an_aborted_answer_may_be_empty() -> None:
    answer = copy.deepcopy(GOOD)
    answer["output_ids"] = []
    answer["meta_info"] |= {
        "finish_reason": {"type": "abort", "message": "paused"},
        "weight_versions": [{"version": "default", "start": 0, "end": 0}],
        "output_token_logprobs": [],
        "output_top_logprobs": [],
    }
    assert parse_answer(answer, QUESTION) == Answer((), (), "abort", (), cached_tokens=1)


def test_servers_without_spans_name_one_version() -> None:
    answer = copy.deepcopy(GOOD)
    del answer["meta_info"]["weight_versions"]
    assert parse_answer(answer, QUESTION).spans == (Span(4, 0, 3),)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("output_ids", None),
        ("output_ids.0", 10),
        ("output_ids.0", -1),
        ("output_ids.0", 7.0),
        ("output_ids.0", True),
        ("output_ids", [7, 8, 7, 8, 2]),
        ("output_ids", []),
        ("meta_info", [1]),
        ("meta_info.id", "r-01"),
        ("meta_info.finish_reason", None),
        ("meta_info.finish_reason", {"type": "vanished"}),
        ("meta_info.cached_tokens", -1),
        ("meta_info.output_token_logprobs", None),
        ("meta_info.output_token_logprobs", [[-0.5, 7, None]]),
        ("meta_info.output_token_logprobs.1", [-0.25]),
        ("meta_info.output_token_logprobs.1.0", None),
        ("meta_info.output_token_logprobs.1.0", "low"),
        ("meta_info.output_token_logprobs.1.0", math.nan),
        ("meta_info.output_token_logprobs.1.0", -math.inf),
        ("meta_info.output_token_logprobs.1.0", 1e-3),
        ("meta_info.output_token_logprobs.1.1", 7),
        ("meta_info.output_top_logprobs", None),
        ("meta_info.output_top_logprobs", [[[-0.5, 7, None], [-1.0, 3, None]]]),
        ("meta_info.output_top_logprobs.0", [[-0.5, 7, None]]),
        ("meta_info.output_top_logprobs.0.1.1", 10),
        ("meta_info.output_top_logprobs.0.1.0", -0.1),
        ("meta_info.weight_versions", "3"),
        ("meta_info.weight_versions", []),
        ("meta_info.weight_versions.0.start", 1),
        ("meta_info.weight_versions.0.end", 0),
        ("meta_info.weight_versions.1.end", 4),
        ("meta_info.weight_versions.1.start", None),
    ],
)
def test_a_malformed_answer_is_not_believed(path: str, value: object) -> None:
    with pytest.raises(UnavailableError, match="request r-00: a malformed answer"):
        parse_answer(changed(path, value), QUESTION)


@pytest.mark.parametrize("raw", [None, [], "busy", 3])
def test_an_answer_that_is_no_object_is_not_believed(raw: object) -> None:
    with pytest.raises(UnavailableError, match="the answer should be an object"):
        parse_answer(raw, QUESTION)


def test_weights_that_nobody_published_are_told_apart() -> None:
    with pytest.raises(OtherWeightsError, match="'default'"):
        parse_answer(changed("meta_info.weight_versions.0.version", "default"), QUESTION)


def test_a_log_prob_may_exceed_zero_by_rounding_alone() -> None:
    answer = changed("meta_info.output_token_logprobs.1.0", 1e-7)
    assert parse_answer(answer, QUESTION).log_prob[1] == 1e-7


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ({"type": "length", "length": 3}, "cut at 3 of 4 tokens"),
        ({"type": "stop", "matched": 8}, "ended at token 8"),
    ],
)
def test_an_end_by_the_servers_own_rule_is_not_asked_for_again(reason: dict, said: str) -> None:
    answer = changed("meta_info.finish_reason", reason)
    answer["output_ids"][2] = answer["meta_info"]["output_token_logprobs"][2][1] = 8
    with pytest.raises(RefusedError, match=said):
        parse_answer(answer, QUESTION)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"error": {"message": "too long"}}', "too long"),
        ('{"error": "no worker"}', "no worker"),
        ('{"success": false, "message": "no session"}', "no session"),
        ('{"detail": "not found"}', "not found"),
        ("<html>busy</html>", "<html>busy</html>"),
        ('{"code": 3}', '{"code": 3}'),
    ],
)
def test_a_servers_reason_is_found_in_each_of_its_forms(text: str, reason: str) -> None:
    assert reason_of(text) == reason


def test_an_address_has_a_scheme_and_a_host() -> None:
    assert server_url("http://10.0.0.5:30000/") == "http://10.0.0.5:30000"
    for wrong in (
        "10.0.0.5:30000",
        "ftp://host",
        "http://",
        "http://user:key@host",
        "http://host?a=1",
        "http://h:x",
    ):
        with pytest.raises(ConfigError, match="is no address of a server"):
            server_url(wrong)
