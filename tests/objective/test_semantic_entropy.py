"""Semantic entropy and its curriculum against direct sums."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import pairwise

import pytest

from megaent.objective.semantic_entropy import (
    WEIGHTS,
    cluster_probabilities,
    curriculum_stages,
    response_log_weight,
    semantic_entropy,
)
from megaent.types import Response


@pytest.mark.parametrize("seed", range(20))
def test_by_counts_it_is_the_entropy_of_the_answers(seed: int) -> None:
    rng = random.Random(seed)
    answers = [rng.choice(["", "1", "2", "x^2"]) for _ in range(rng.randint(1, 12))]
    shares = [count / len(answers) for count in Counter(answers).values()]
    found = semantic_entropy(answers)
    assert found == pytest.approx(-sum(share * math.log(share) for share in shares), abs=1e-12)
    assert 0.0 <= found <= math.log(len(answers)) + 1e-12


@pytest.mark.parametrize("seed", range(10))
def test_by_probability_a_cluster_weighs_what_its_responses_do(seed: int) -> None:
    rng = random.Random(seed)
    answers = [rng.choice("abc") for _ in range(8)]
    log_prob = [-3 * rng.random() for _ in answers]
    total = sum(map(math.exp, log_prob))
    shares = cluster_probabilities(answers, log_prob)
    for answer in set(answers):
        mass = sum(math.exp(p) for a, p in zip(answers, log_prob, strict=True) if a == answer)
        assert shares[answer] == pytest.approx(mass / total, abs=1e-12)
    shifted = [value - 5000.0 for value in log_prob]  # as unlikely as long responses are
    assert semantic_entropy(answers, shifted) == pytest.approx(semantic_entropy(answers, log_prob), abs=1e-9)


def test_agreement_has_entropy_0_and_disagreement_ln_of_the_number() -> None:
    assert semantic_entropy(["4"] * 8) == 0.0
    assert str(semantic_entropy(["4"] * 8)) == "0.0"
    assert semantic_entropy(["", "", ""]) == 0.0
    assert semantic_entropy(list("abcde")) == pytest.approx(math.log(5), abs=1e-12)


def test_a_response_weighs_its_probability_or_its_mean() -> None:
    response = Response(tokens=(1, 2, 3), log_prob=(-1.0, -2.0, -6.0), finish="stop", version=1)
    assert [response_log_weight(response, weights) for weights in WEIGHTS] == [0.0, -9.0, -3.0]
    with pytest.raises(ValueError, match="count, log_prob, mean_log_prob, got 'sum'"):
        response_log_weight(response, "sum")


@pytest.mark.parametrize("seed", range(10))
def test_stages_rise_and_are_as_equal_as_they_can_be(seed: int) -> None:
    rng = random.Random(seed)
    table = {f"p{number}": rng.choice([0.0, 0.5, 0.7, 1.1]) for number in range(rng.randint(5, 30))}
    for num_stages in (1, 2, 3, 5):
        stages = curriculum_stages(table, num_stages)
        joined = [id_ for stage in stages for id_ in stage]
        assert sorted(joined) == sorted(table)
        assert all((table[a], a) < (table[b], b) for a, b in pairwise(joined))
        sizes = [len(stage) for stage in stages]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1
        shuffled = dict(rng.sample(list(table.items()), len(table)))
        assert curriculum_stages(shuffled, num_stages) == stages


def test_uniform_prompts_can_be_left_out() -> None:
    table = {"a": 0.0, "b": 0.3, "c": 0.0, "d": 0.1}
    assert curriculum_stages(table, 2, drop_uniform=True) == [["d"], ["b"]]
    with pytest.raises(ValueError, match=r"2 prompts \(of 4\) cannot make 3 stages.*entropy 0"):
        curriculum_stages(table, 3, drop_uniform=True)
    with pytest.raises(ValueError, match="choose fewer stages"):
        curriculum_stages(table, 5)


def test_answers_and_weights_must_match() -> None:
    with pytest.raises(ValueError, match="2 answers and 1 weights"):
        semantic_entropy(["1", "2"], [0.0])
    with pytest.raises(ValueError, match="0 answers"):
        semantic_entropy([])
