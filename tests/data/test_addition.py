"""Few-shot addition: right sums, examples that give nothing away, stops at every kind of newline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megaent.data.addition import AdditionOptions
from megaent.data.prompts import PromptStream
from megaent.data.registry import load_task
from megaent.data.task import Task
from megaent.types import Prompt


def sums(prompt: Prompt) -> tuple[list[tuple[int, int, int]], tuple[int, int]]:
    """The worked examples, and what is asked."""
    *lines, last = prompt.text.split("\n")
    assert all(re.fullmatch(r"\d+ \+ \d+ = \d+", line) for line in lines)
    assert re.fullmatch(r"\d+ \+ \d+ =", last)
    examples = [[int(x) for x in re.findall(r"\d+", line)] for line in lines]
    left, right = [int(x) for x in re.findall(r"\d+", last)]
    return [(x, y, z) for x, y, z in examples], (left, right)


@pytest.fixture(scope="module")
def task(byte_model: Path) -> Task:
    return load_task(
        AdditionOptions(train_prompts=400, hard_fraction=0.25), byte_model, max_prompt_tokens=200
    )


def test_answers_and_examples_are_true_sums(task: Task) -> None:
    for prompt in (*task.train, *task.evaluation):
        examples, (a, b) = sums(prompt)
        assert int(prompt.answer) == a + b
        assert len(examples) == 4
        assert all(x + y == z for x, y, z in examples)


def test_no_example_shows_the_sum_that_is_asked(task: Task) -> None:
    for prompt in (*task.train, *task.evaluation):
        examples, asked = sums(prompt)
        assert sorted(asked) not in [sorted(e[:2]) for e in examples]


def test_held_out_sums_are_neither_asked_nor_shown_in_training(task: Task) -> None:
    held_out = {tuple(sorted(sums(p)[1])) for p in task.evaluation}
    asked = {tuple(sorted(sums(p)[1])) for p in task.train}
    shown = {tuple(sorted(e[:2])) for p in (*task.train, *task.evaluation) for e in sums(p)[0]}
    assert not held_out & (asked | shown)
    assert len(held_out) > 100


def test_splits_have_their_digits_and_shares(task: Task) -> None:
    assert [p.split for p in task.train].count("hard") == 100
    assert [p.split for p in task.evaluation[:256]].count("hard") == 128
    for prompt in (*task.train, *task.evaluation):
        numbers = [*sums(prompt)[1]]
        assert all((10 <= x <= 99) if prompt.split == "hard" else (0 <= x <= 9) for x in numbers)


def test_prompts_are_distinct_and_their_ids_too(task: Task) -> None:
    everything = (*task.train, *task.evaluation)
    assert len({p.text for p in everything}) == len({p.id for p in everything}) == 400 + 512
    PromptStream(task.train, per_step=16, seed=0)


def test_the_training_seed_leaves_the_evaluation_alone(byte_model: Path, task: Task) -> None:
    other = load_task(AdditionOptions(train_prompts=400, seed=1), byte_model, max_prompt_tokens=200)
    assert other.evaluation == task.evaluation
    assert not {p.text for p in other.train} & {p.text for p in task.train}


def test_without_examples_the_one_digit_task_is_as_large_as_it_is(byte_model: Path) -> None:
    task = load_task(AdditionOptions(shots=0, train_prompts=1000), byte_model, max_prompt_tokens=200)
    easy = {p.text for p in (*task.train, *task.evaluation) if p.split == "easy"}
    assert easy == {f"{a} + {b} =" for a in range(10) for b in range(10)}


def test_every_token_with_a_newline_stops_a_response(task: Task, byte_model: Path) -> None:
    texts = sorted(task.decode([token]) for token in task.stop_token_ids)
    # Both end tokens decode to nothing.
    assert texts == ["", "", "\n", "\n\n"]


def test_a_newline_closes_a_step(task: Task) -> None:
    assert task.step_boundary == "\n"
