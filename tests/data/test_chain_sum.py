"""Indexed chain sums: true answers, one token an integer, nothing evaluated that was trained on."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from support.word_folder import write_word_folder

from megaent.data.chain_sum import (
    LARGEST_NUMBER,
    STYLES,
    VOCABULARY,
    ChainSumOptions,
    even_shares,
    problem_text,
    split_problems,
    teacher_trace,
)
from megaent.data.registry import load_task
from megaent.data.task import Task, decode_groups
from megaent.errors import ConfigError, DataError
from megaent.small_models.warmup import _batches, make_tokenizer
from megaent.small_models.warmup_recipe import ChainSumRecipe
from megaent.types import Group, Response


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_folder(tmp_path_factory.mktemp("words"), VOCABULARY)


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(ChainSumOptions(largest=3, train_prompts=1024), folder, max_prompt_tokens=100)


def test_the_answer_is_the_sum_of_the_numbers_in_the_text(task: Task) -> None:
    for prompt in (*task.train, *task.evaluation):
        assert int(prompt.answer) == sum(map(int, re.findall(r"[0-9]+", prompt.text)))


def test_every_word_is_one_of_64_tokens(task: Task) -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 64
    assert problem_text((2, 1, 0)) == "Q a2 b1 c0 ="
    prompt = next(p for p in task.train if p.text.startswith("Q a2 b1 c"))
    words = [VOCABULARY[token] for token in prompt.tokens]
    assert words[:6] == ["Q", "a", "2", "b", "1", "c"]
    assert "<unk>" not in {VOCABULARY[t] for p in task.train for t in p.tokens}


def test_tokens_decode_to_the_words_they_came_from(task: Task) -> None:
    ids = tuple(VOCABULARY.index(word) for word in ["b", "1", "=", "19", ";", "A", "19", "<eos>"])
    response = Response(tokens=ids, log_prob=(0.0,) * len(ids), finish="stop", version=0)
    [group] = decode_groups([Group(index=0, prompt=task.train[0], responses=(response,))], task.decode)
    assert group.responses[0].text == "b 1 = 19 ; A 19"
    assert task.stop_token_ids == (VOCABULARY.index("<eos>"),)


def test_no_evaluated_problem_is_trained_on(task: Task) -> None:
    train, evaluation = ({p.text for p in prompts} for prompts in (task.train, task.evaluation))
    assert not train & evaluation
    assert len(evaluation) == len(task.evaluation) >= 256
    assert len(train) == len(task.train) == 1024


def test_any_prefix_of_the_evaluation_is_balanced_over_lengths(task: Task) -> None:
    splits = [p.split for p in task.evaluation[:256]]
    # 4 and 16 are a quarter of the 16 sums of two numbers and the 64 of three; the rest share evenly.
    assert [splits.count(f"n={n}") for n in range(2, 7)] == [4, 16, 64, 86, 86]
    assert all(p.split == f"n={len(re.findall('[a-h]', p.text))}" for p in task.evaluation)


def test_the_evaluation_does_not_depend_on_the_seed(folder: Path, task: Task) -> None:
    other = load_task(ChainSumOptions(largest=3, train_prompts=100, seed=9), folder, max_prompt_tokens=100)
    assert other.evaluation == task.evaluation
    assert {p.id for p in other.train} != {p.id for p in task.train}


def test_held_out_problems_are_a_quarter_and_the_rest_is_for_training() -> None:
    train, held_out = split_problems(4, 2)
    assert len(held_out) == 21
    assert len({*train, *held_out}) == len(train) + 21 == 3**4
    assert len(split_problems(6, 3)[1]) == 128


def test_shares_are_even_where_sizes_allow() -> None:
    assert even_shares({2: 12, 3: 48, 4: 192, 5: 896}, total=400) == {2: 12, 3: 48, 4: 170, 5: 170}
    assert even_shares({2: 3, 3: 5}, total=0) == {2: 3, 3: 5}
    assert even_shares({2: 3, 3: 5}, total=99) == {2: 3, 3: 5}
    assert sum(even_shares({2: 9, 3: 9, 4: 9}, total=10).values()) == 10


def test_sums_beyond_the_vocabulary_are_refused() -> None:
    with pytest.raises(DataError, match="can sum to 48, but the vocabulary counts to 45"):
        split_problems(6, 8)


def test_a_context_without_room_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="leaves 0 tokens"):
        load_task(ChainSumOptions(), folder, max_prompt_tokens=0)
    with pytest.raises(DataError, match="has 6 tokens, and the model's context leaves 5"):
        load_task(ChainSumOptions(largest=1, operands_max=2), folder, max_prompt_tokens=5)


@pytest.mark.parametrize("style", STYLES)
def test_a_teacher_without_error_is_right_in_every_step(style: str) -> None:
    operands = (2, 3, 0, 1)
    trace = teacher_trace(operands, style=style, error=0.0, rng=random.Random(0))
    assert trace.endswith("; A 6")
    results = [int(x) for x in re.findall(r"= ([0-9]+) ;", trace)]
    assert results == ([5, 5, 6] if style != "check" else [5, 5, 5, 5, 6, 6])
    for left, right, result in re.findall(r"([0-9]+) \+ [a-h] ([0-9]+) = ([0-9]+)", trace):
        assert int(left) + int(right) == int(result)


def test_styles_differ_in_length_alone() -> None:
    traces = [teacher_trace((1, 1, 1), style=s, error=0.0, rng=random.Random(0)) for s in STYLES]
    assert traces[0] == "b 1 = 2 ; c 1 = 3 ; A 3"
    assert traces[1] == "b 1 + b 1 = 2 ; c 2 + c 1 = 3 ; A 3"
    assert traces[2].startswith("b 1 + b 1 = 2 ; so chk 1 + b 1 = 2 ; c")


def test_the_teacher_errs_as_often_as_it_is_told() -> None:
    rng = random.Random(0)
    wrong = sum(teacher_trace((9, 9), style="terse", error=0.2, rng=rng)[-2:] != "18" for _ in range(4000))
    # A binomial count: 4 standard deviations are 4 * sqrt(4000 * 0.2 * 0.8) = 101.
    assert abs(wrong - 800) < 101


def test_teachers_stay_inside_the_vocabulary() -> None:
    rng = random.Random(0)
    low = {teacher_trace((0, 0), style="steps", error=1.0, rng=rng).split()[-1] for _ in range(50)}
    high = {teacher_trace((40, 5), style="steps", error=1.0, rng=rng).split()[-1] for _ in range(50)}
    assert low == {"0", "1", "2"}
    assert high == {"44", str(LARGEST_NUMBER)}


def test_the_warm_up_learns_the_trace_and_not_the_prompt() -> None:
    recipe = ChainSumRecipe(
        hidden_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        intermediate_size=8,
        tie_embeddings=True,
        steps=3,
        lr=1e-3,
        batch=4,
        seed=0,
        operands_min=2,
        operands_max=5,
        largest=3,
        teacher_error=0.0,
    )
    evaluated = {problem_text(o) for n in range(2, 6) for o in split_problems(n, 3)[1]}
    for token_BL, target_BL in _batches(make_tokenizer(), recipe):
        for tokens, targets in zip(token_BL.tolist(), target_BL.tolist(), strict=True):
            start = tokens.index(VOCABULARY.index("=")) + 1
            assert targets[:start] == [-100] * start
            trace = [VOCABULARY[t] for t in targets[start:] if t != -100]
            assert trace[-1] == "<eos>"
            assert targets[start : start + len(trace)] == tokens[start : start + len(trace)]
            words = [VOCABULARY[t] for t in tokens[:start]]
            assert int(trace[-2]) == sum(int(w) for w in words if w.isdigit())
            assert re.sub(r"([a-h]) ", r"\1", " ".join(words)) not in evaluated


def test_a_step_is_closed_by_its_semicolon(task: Task) -> None:
    assert task.step_boundary == ";"
    assert task.step_boundary in teacher_trace((1, 1), style="terse", error=0.0, rng=random.Random(0)).split()
