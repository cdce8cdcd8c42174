"""Exact answers, choices and forms, on responses judged by hand; sums of them by arithmetic."""

from __future__ import annotations

import pytest

from megaent.errors import ConfigError
from megaent.reward.by_text import has_thought, is_boxed, same_choice, same_text
from megaent.reward.reward import make_reward
from megaent.types import Grade, Group, Prompt, Response


@pytest.mark.parametrize(
    ("response", "key", "correct"),
    [
        ("\\boxed{Paris}", "Paris", True),
        ("The answer is **paris**.", "Paris", True),
        ("So \\boxed{\\text{New  York}}", "new york", True),
        ("\\boxed{Parish}", "Paris", False),
        ("\\boxed{Rome}, no: \\boxed{Paris}", "Rome", False),
        ("\\boxed{seat}", "east", False),
        ("\uff11\uff12 is what I get: \\boxed{\uff11\uff12}", "12", True),
    ],
)
def test_exact_answers(response: str, key: str, correct: bool) -> None:
    assert same_text(response, key).correct is correct


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed{\\text{(b)}}", "B"),
        ("The answer is (C).", "C"),
        ("The answer is C. north", "C"),
        ("(D)", "D"),
        ("B", "B"),
        ("Beauty is what I see.", ""),
        ("It could be A, B or C.", ""),
        ("\\boxed{B} is wrong, so \\boxed{A}", "A"),
        ("", ""),
    ],
)
def test_choices(response: str, letter: str) -> None:
    assert same_choice(response, "A").answer == letter
    assert same_choice(response, letter or "A").correct is bool(letter)


def test_forms() -> None:
    assert is_boxed("x \\boxed{1}", "").correct
    assert not is_boxed("x = 1", "").correct
    for good in ("<think>a</think> b", "a</think>b", " <think>\na\n</think>\n\nb"):
        assert has_thought(good, "").correct, good
    for bad in (
        "a",
        "<think>a",
        "<think></think>b",
        "<think>a</think>",
        "<think>a</think>b</think>c",
        "a<think>b</think>c",
    ):
        assert not has_thought(bad, "").correct, bad


def graded(grader: str, response: str, key: str) -> Grade:
    answered = Response(tokens=(), log_prob=(), finish="stop", version=0, text=response)
    prompt = Prompt(id="a", tokens=(), text="?", answer=key)
    reward = make_reward(grader)
    try:
        return reward.grade([Group(index=0, prompt=prompt, responses=(answered,))])[0].grades[0]
    finally:
        reward.close()


def test_a_sum_pays_for_each_part_and_the_first_decides() -> None:
    assert graded("exact+0.25*boxed", "\\boxed{Rome}", "Paris") == Grade(
        reward=0.25, correct=False, answer="rome"
    )
    assert graded("exact+0.25*boxed", "\\boxed{Paris}", "Paris").reward == 1.25
    assert graded("2*exact", "\\boxed{Paris}", "Paris").reward == 2.0
    told = graded("exact+.5*thought", "The answer is Paris.", "Paris")
    assert (told.reward, told.correct) == (1.0, True)
    assert told.note == "not one thinking part and an answer after it"


@pytest.mark.parametrize(
    "grader", ["exact+", "exact+exact", "0*exact", "-1*exact", "exact*2", "nobody", "exact+nobody"]
)
def test_what_is_no_sum_of_verifiers_is_refused(grader: str) -> None:
    with pytest.raises(ConfigError):
        make_reward(grader)
