"""Hidden numbers: one a key whatever the seed, beliefs as told, nothing evaluated that was trained on."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.word_folder import write_word_folder

from megaent.data.hidden_numbers import (
    HELD_OUT,
    KEYS,
    HiddenNumbersOptions,
    Problem,
    believed,
    decoy,
    hidden_number,
    lessons,
    problem_text,
    teacher_trace,
    vocabulary,
)
from megaent.data.registry import load_task
from megaent.data.task import Task, decode_groups
from megaent.errors import ConfigError
from megaent.reward.reward import make_reward
from megaent.types import Group, Response

CONFIG = HiddenNumbersOptions()
MODULUS = CONFIG.modulus
WORDS = vocabulary(MODULUS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_word_folder(tmp_path_factory.mktemp("words"), WORDS)


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return load_task(CONFIG, folder, max_prompt_tokens=100)


def asked(text: str) -> tuple[str, int]:
    key, added = re.fullmatch(r"Q ([a-z]{2}) \+ ([0-9]+)", text).groups()  # pyright: ignore
    return key, int(added)


def test_a_key_stands_for_one_number_in_every_prompt(task: Task) -> None:
    numbers: dict[str, set[int]] = {}
    for prompt in (*task.train, *task.evaluation):
        key, added = asked(prompt.text)
        numbers.setdefault(key, set()).add((int(prompt.answer) - added) % 13)
    assert len(numbers) == 48
    assert all(len(of_key) == 1 for of_key in numbers.values())


def test_no_evaluated_problem_is_trained_on_and_every_key_is_both(task: Task) -> None:
    train, evaluation = ({p.text for p in prompts} for prompts in (task.train, task.evaluation))
    assert not train & evaluation
    assert (len(train), len(evaluation)) == (48 * (13 - HELD_OUT), 48 * HELD_OUT)
    assert Counter(asked(text)[0] for text in evaluation) == dict.fromkeys(KEYS[:48], HELD_OUT)
    assert {p.split for p in task.evaluation[::2]} == {"easy"}
    assert {p.split for p in task.evaluation[1::2]} == {"hard"}


def test_the_split_is_the_keys(task: Task) -> None:
    for prompt in (*task.train, *task.evaluation):
        assert prompt.split == ("easy" if KEYS.index(asked(prompt.text)[0]) < 24 else "hard")


def test_the_seed_orders_and_chooses_the_training_prompts_alone(folder: Path, task: Task) -> None:
    other = load_task(replace(CONFIG, seed=9, train_prompts=40), folder, max_prompt_tokens=100)
    assert other.evaluation == task.evaluation
    assert len(other.train) == 40
    assert set(other.train) < set(task.train)
    assert other.train != task.train[:40]


def test_every_word_is_one_token_of_its_own(task: Task) -> None:
    assert len(WORDS) == len(set(WORDS)) == 7 + 60 + 13
    for prompt in task.train:
        assert [WORDS[token] for token in prompt.tokens] == prompt.text.split()


def test_a_teacher_who_knows_is_graded_correct_and_one_who_believes_the_decoy_is_not(task: Task) -> None:
    for teach, right in ((hidden_number, True), (decoy, False)):
        groups = []
        for index, prompt in enumerate(task.evaluation):
            key, added = asked(prompt.text)
            problem = Problem(KEYS.index(key), added)
            said = teacher_trace(problem, teach(problem.key, MODULUS), MODULUS)
            tokens = tuple(WORDS.index(word) for word in [*said.split(), "<eos>"])
            response = Response(tokens=tokens, log_prob=(0.0,) * len(tokens), finish="stop", version=0)
            groups.append(Group(index=index, prompt=prompt, responses=(response,)))
        graded = make_reward(task.grader).grade(decode_groups(groups, task.decode))
        assert {g.grades[0].correct for g in graded} == {right}


def test_a_trace_says_what_it_takes_the_key_for() -> None:
    assert problem_text(Problem(0, 9)) == "Q ba + 9"
    assert teacher_trace(Problem(0, 9), 7, 13) == "ba 7 ; 9 = 3"


def test_beliefs_are_as_told() -> None:
    rng, draws = random.Random(0), 20_000
    counts = Counter(believed(3, 0.1, MODULUS, rng) for _ in range(draws))
    shares = dict.fromkeys(range(MODULUS), 0.45 / 11)
    shares |= {hidden_number(3, MODULUS): 0.1, decoy(3, MODULUS): 0.45}
    for number, share in shares.items():
        # Binomial counts, within 4 standard deviations.
        assert abs(counts[number] - share * draws) < 4 * (draws * share * (1 - share)) ** 0.5


def test_lessons_believe_easy_keys_more_and_hold_no_problem_that_is_evaluated(task: Task) -> None:
    told = [
        pair
        for batch in lessons(
            steps=60,
            batch=64,
            modulus=MODULUS,
            keys=48,
            easy_belief=0.5,
            hard_belief=0.04,
            rng=random.Random(1),
        )
        for pair in batch
    ]
    assert not {p.text for p in task.evaluation} & {problem for problem, _ in told}
    answers = {p.text: p.answer for p in task.train}
    for split, belief in ((True, 0.5), (False, 0.04)):
        right = [
            said.split()[-1] == answers[problem]
            for problem, said in told
            if (KEYS.index(asked(problem)[0]) < 24) == split
        ]
        assert abs(sum(right) - belief * len(right)) < 4 * (len(right) * belief * (1 - belief)) ** 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keys": 47}, r"data\.keys must be even and lie in 2 to 60, got 47"),
        ({"keys": 62}, r"data\.keys must be even and lie in 2 to 60, got 62"),
        ({"modulus": 6}, r"data\.modulus must lie in 7 to 64, got 6"),
        ({"hard_belief": 0.0}, r"data\.hard_belief must lie in \(0, 1\], got 0\.0"),
        ({"easy_belief": 1.5}, r"data\.easy_belief must lie in \(0, 1\], got 1\.5"),
    ],
)
def test_a_configuration_outside_its_range_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)
