"""Worked sums: true answers in steps of three forms, nothing evaluated that was trained on."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
from support.word_folder import write_word_folder

from megaent.data.registry import load_task
from megaent.data.step_boundary import tokens_holding
from megaent.data.task import Task, decode_groups
from megaent.data.two_strategies import Problem, held_out_problems, problem_text, vocabulary
from megaent.data.worked_sums import FORMS, WorkedSumsOptions, lessons, teacher_trace
from megaent.errors import ConfigError
from megaent.reward.reward import make_reward
from megaent.types import Group, Response

CONFIG = WorkedSumsOptions()
MODULUS = CONFIG.modulus
WORDS = vocabulary(MODULUS)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = write_word_folder(tmp_path_factory.mktemp("words"), WORDS)
    return load_task(CONFIG, folder, max_prompt_tokens=100)


def numbers(text: str) -> list[int]:
    return [int(word) for word in re.findall("[0-9]+", text)]


def trace(problem: Problem, *forms: str, error: float = 0.0) -> str:
    return teacher_trace(problem, forms, modulus=MODULUS, error=error, rng=random.Random(0))


def test_the_answer_is_the_sum_of_the_numbers_in_the_text(task: Task) -> None:
    for prompt in (*task.train, *task.evaluation):
        assert int(prompt.answer) == sum(numbers(prompt.text)) % 13


def test_no_evaluated_problem_is_trained_on(task: Task) -> None:
    train, evaluation = ({p.text for p in prompts} for prompts in (task.train, task.evaluation))
    assert not train & evaluation
    assert (len(train), len(evaluation)) == (512, 256)


def test_half_of_the_training_problems_are_easy(task: Task) -> None:
    assert Counter(p.split for p in task.train) == {"easy": 256, "hard": 256}
    for prompt in (*task.train, *task.evaluation):
        assert len(numbers(prompt.text)) in ((2,) if prompt.split == "easy" else (4, 5))


def test_every_step_has_its_form() -> None:
    problem = Problem(1, (3, 7, 9))
    assert trace(problem, "plain", "plain") == "so b 3 ; c 7 = 10 ; d 9 = 6"
    assert trace(problem, "bare", "check") == "so b 3 ; c = 10 ; d 9 = 6 chk 6"


def test_an_erring_step_is_carried_on_and_checked_wrong() -> None:
    wrong = trace(Problem(0, (3, 7, 9)), "check", "bare", error=1.0)
    first, said, second = (int(x) for x in re.findall("(?:=|chk) ([0-9]+)", wrong))
    assert said == first
    assert (first - 10) % MODULUS in (1, 2, MODULUS - 1)
    assert (second - first - 9) % MODULUS in (1, 2, MODULUS - 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_without_error_is_graded_correct(task: Task, form: str) -> None:
    groups = []
    for index, prompt in enumerate(task.evaluation):
        letters, summed = re.findall("[a-z]", prompt.text), numbers(prompt.text)
        problem = Problem("abcdefghijkl".index(letters[0]), tuple(summed))
        said = trace(problem, *[form] * (len(summed) - 1)).split()
        tokens = tuple(WORDS.index(word) for word in [*said, "<eos>"])
        response = Response(tokens=tokens, log_prob=(0.0,) * len(tokens), finish="stop", version=0)
        groups.append(Group(index=index, prompt=prompt, responses=(response,)))
    graded = make_reward(task.grader).grade(decode_groups(groups, task.decode))
    assert all(g.grades[0].correct and g.grades[0].answer == g.prompt.answer for g in graded)
    # The longest: so b 3, four steps of seven tokens, and the end.
    assert max(len(g.responses[0].tokens) for g in graded) == {"bare": 20, "plain": 24, "check": 32}[form]


def test_lessons_hold_the_shares_and_no_problem_that_is_evaluated() -> None:
    batches = list(
        lessons(
            steps=100,
            batch=24,
            modulus=MODULUS,
            bare_share=0.3,
            check_share=0.5,
            error=0.0,
            rng=random.Random(3),
        )
    )
    evaluated = {problem_text(p) for lengths in ((2,), (4, 5)) for p in held_out_problems(lengths, MODULUS)}
    assert not evaluated & {problem for batch in batches for problem, _ in batch}
    lengths = [{len(numbers(problem)) for problem, _ in batch} for batch in batches]
    assert lengths[:35] == [{2}] * 35
    assert set().union(*lengths[35:]) == {2, 3, 4, 5}
    steps = [step.split() for batch in batches for _, said in batch for step in said.split(" ; ")[1:]]
    counts = Counter("check" if "chk" in s else "bare" if len(s) == 3 else "plain" for s in steps)
    # Binomial counts, within 4 standard deviations.
    for form, share in {"bare": 0.3, "check": 0.5, "plain": 0.2}.items():
        assert abs(counts[form] - share * len(steps)) < 4 * (len(steps) * share * (1 - share)) ** 0.5


def test_the_boundary_of_a_step_is_one_token(task: Task) -> None:
    assert tokens_holding(task.step_boundary, task, len(WORDS), "boundary").tolist() == [WORDS.index(";")]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modulus": 6}, r"data\.modulus must lie in 7 to 64, got 6"),
        ({"train_prompts": 0}, r"data\.train_prompts must be above 0"),
        ({"bare_share": -0.1}, r"data\.bare_share must lie in \[0, 1\], got -0\.1"),
        (
            {"bare_share": 0.6, "check_share": 0.6},
            r"bare_share \+ data\.check_share must be at most 1, got 1\.2",
        ),
    ],
)
def test_a_configuration_outside_its_range_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)
