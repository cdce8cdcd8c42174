"""Two strategies: true answers, two ways of writing them, nothing evaluated that was trained on."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.word_folder import write_word_folder

from megaent.data.registry import load_task
from megaent.data.step_boundary import tokens_holding
from megaent.data.task import Task, decode_groups
from megaent.data.two_strategies import (
    STYLES,
    Problem,
    TwoStrategiesOptions,
    held_out_problems,
    lessons,
    problem_text,
    teacher_trace,
    training_problems,
    vocabulary,
)
from megaent.errors import ConfigError, DataError
from megaent.reward.reward import make_reward
from megaent.types import Group, Response

CONFIG = TwoStrategiesOptions()
MODULUS = CONFIG.modulus
WORDS = vocabulary(MODULUS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_folder(tmp_path_factory.mktemp("words"), WORDS)


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(CONFIG, folder, max_prompt_tokens=100)


def numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall("[0-9]+", text)]


def test_the_answer_is_the_sum_of_the_numbers_in_the_text(task: Task) -> None:
    for prompt in (*task.train, *task.evaluation):
        assert int(prompt.answer) == sum(numbers(prompt.text)) % 13


def test_a_problem_names_its_numbers_by_consecutive_letters(task: Task) -> None:
    assert problem_text(Problem(2, (3, 12))) == "Q 3c ; 12d"
    for prompt in (*task.train, *task.evaluation):
        letters = "".join(re.findall("[a-z]", prompt.text))
        assert letters in "abcdefghijkl"
        assert len(letters) == len(numbers(prompt.text))


def test_every_word_is_one_token_of_its_own(task: Task) -> None:
    assert len(WORDS) == len(set(WORDS)) == 20 + 13
    prompt = next(p for p in task.train if p.split == "easy")
    said = [WORDS[token] for token in prompt.tokens]
    assert [word for word in said if word.isdigit()] == [str(x) for x in numbers(prompt.text)]
    assert "<unk>" not in {WORDS[token] for p in task.train for token in p.tokens}
    assert {len(p.tokens) for p in task.train if p.split == "easy"} == {6}


def test_no_evaluated_problem_is_trained_on(task: Task) -> None:
    train, evaluation = ({p.text for p in prompts} for prompts in (task.train, task.evaluation))
    assert not train & evaluation
    assert (len(train), len(evaluation)) == (len(task.train), len(task.evaluation)) == (256, 256)


def test_three_quarters_of_the_training_problems_are_easy(task: Task) -> None:
    lengths = {"easy": {2}, "hard": {4, 5}}
    assert Counter(p.split for p in task.train) == {"easy": 192, "hard": 64}
    for split, allowed in lengths.items():
        assert {len(numbers(p.text)) for p in task.train if p.split == split} == allowed


@pytest.mark.parametrize("prefix", [16, 64, 256])
def test_any_prefix_of_the_evaluation_is_balanced(task: Task, prefix: int) -> None:
    counts = Counter(len(numbers(p.text)) for p in task.evaluation[:prefix])
    assert counts == {2: prefix // 2, 4: prefix // 4, 5: prefix // 4}


def test_the_evaluation_does_not_depend_on_the_seed(folder: Path, task: Task) -> None:
    again = load_task(CONFIG, folder, max_prompt_tokens=100)
    assert (again.train, again.evaluation) == (task.train, task.evaluation)
    other = load_task(replace(CONFIG, seed=9), folder, max_prompt_tokens=100)
    assert other.evaluation == task.evaluation
    assert {p.id for p in other.train} != {p.id for p in task.train}


def test_more_problems_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match=r"asks for 133 problems .* data\.modulus=7 leaves 264"):
        training_problems((2,), 7, number=133, seed=0)
    assert len(set(training_problems((2,), 7, number=132, seed=0))) == 132


@pytest.mark.parametrize(
    ("field", "value"),
    [("modulus", 6), ("modulus", 65), ("train_prompts", 0), ("easy_fraction", 1.5), ("careful_share", -0.1)],
)
def test_a_configuration_outside_its_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{field} must .* got {value}"):
        replace(CONFIG, **{field: value})


# ---------------------------------------------------------------- the teacher


def trace(problem: Problem, style: str, *, error: float = 0.0, seed: int = 0) -> str:
    return teacher_trace(problem, style=style, modulus=MODULUS, error=error, rng=random.Random(seed))


def test_styles_are_at_once_in_steps_and_with_checks() -> None:
    problem = Problem(1, (3, 7, 9))
    assert trace(problem, "terse") == "= 6"
    assert trace(problem, "steps") == "so b 3 ; c 7 = 10 ; d 9 = 6"
    assert trace(problem, "check") == "so b 3 ; c 7 = 10 chk 10 ; d 9 = 6 chk 6"


@pytest.mark.parametrize("style", STYLES)
def test_a_teacher_without_error_is_graded_correct(task: Task, style: str) -> None:
    """From a problem's text to its grade, through the tokenizer, on every evaluated problem."""
    groups = []
    for index, prompt in enumerate(task.evaluation):
        problem = Problem("abcdefghijkl".index(prompt.text[-1]) + 1 - len(numbers(prompt.text)), (0,))
        said = trace(problem._replace(numbers=tuple(numbers(prompt.text))), style).split()
        tokens = tuple(WORDS.index(word) for word in [*said, "<eos>"])
        # What the first letter is named is what the steps must call it.
        assert style == "terse" or said[1] == re.findall("[a-z]", prompt.text)[0]
        response = Response(tokens=tokens, log_prob=(0.0,) * len(tokens), finish="stop", version=0)
        groups.append(Group(index=index, prompt=prompt, responses=(response,)))
    graded = make_reward(task.grader).grade(decode_groups(groups, task.decode))
    assert all(g.grades[0].correct and g.grades[0].answer == g.prompt.answer for g in graded)
    assert max(len(g.responses[0].tokens) for g in graded) <= 32


def test_an_erring_step_is_carried_on() -> None:
    wrong = trace(Problem(0, (3, 7, 9)), "steps", error=1.0)
    first, second = (int(x) for x in re.findall("= ([0-9]+)", wrong))
    assert (first - 10) % MODULUS in (1, 2, MODULUS - 1)
    assert (second - first - 9) % MODULUS in (1, 2, MODULUS - 1)


@pytest.mark.parametrize("style", STYLES)
def test_the_teacher_errs_as_often_as_it_is_told(style: str) -> None:
    rng = random.Random(0)
    wrong = 0
    for _ in range(4000):
        said = teacher_trace(Problem(0, (9, 9)), style=style, modulus=MODULUS, error=0.2, rng=rng)
        wrong += numbers(said)[-1] != 5
    # A binomial count: 4 standard deviations are 4 * sqrt(4000 * 0.2 * 0.8) = 101.
    assert abs(wrong - 800) < 101


# ---------------------------------------------------------------- the warm-up


def style_of(said: str) -> str:
    return "terse" if said.startswith("=") else "check" if "chk" in said else "steps"


@pytest.fixture(scope="module")
def batches() -> list[list[tuple[str, str]]]:
    return list(
        lessons(steps=200, batch=24, modulus=MODULUS, careful_share=0.06, error=0.05, rng=random.Random(3))
    )


def test_lessons_hold_no_problem_that_is_evaluated(batches: list[list[tuple[str, str]]]) -> None:
    evaluated = {problem_text(p) for lengths in ((2,), (4, 5)) for p in held_out_problems(lengths, MODULUS)}
    assert len(evaluated) == 256
    assert not evaluated & {problem for batch in batches for problem, _ in batch}


def test_lessons_add_two_numbers_first_and_more_later(batches: list[list[tuple[str, str]]]) -> None:
    lengths = [{len(numbers(problem)) for problem, _ in batch} for batch in batches]
    assert lengths[:70] == [{2}] * 70
    assert set().union(*lengths[70:170]) == {2, 3, 4, 5}


def test_lessons_end_on_answers_at_once(batches: list[list[tuple[str, str]]]) -> None:
    assert all(len({style_of(said) for _, said in batch}) == 1 for batch in batches[:170])
    last = Counter(style_of(said) for batch in batches[170:] for _, said in batch)
    total, careful = last.total(), last["steps"] + last["check"]
    # Binomial with p = 0.06, and p = 0.03 for each careful style: within 4 standard deviations.
    assert total == 30 * 48
    assert abs(careful - 0.06 * total) < 4 * (total * 0.06 * 0.94) ** 0.5
    assert abs(last["check"] - 0.03 * total) < 4 * (total * 0.03 * 0.97) ** 0.5


def test_the_boundary_of_a_step_is_one_token(task: Task) -> None:
    assert tokens_holding(task.step_boundary, task, len(WORDS), "boundary").tolist() == [WORDS.index(";")]


def test_a_text_that_no_token_holds_is_refused(task: Task) -> None:
    with pytest.raises(ConfigError, match=r"no token .* holds '</think>'; set the method's thinking_end"):
        tokens_holding("</think>", task, len(WORDS), "thinking_end")
