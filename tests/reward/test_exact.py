"""Integers in an agreed place, and the registry of graders."""

from __future__ import annotations

import pytest

from megaent.errors import ConfigError
from megaent.reward.exact import final_number, first_integer
from megaent.reward.reward import GRADERS, make_reward
from megaent.types import Grade, Group, Prompt, Response


def grades(grader: str, answer: str, *texts: str) -> list[Grade]:
    responses = tuple(Response(tokens=(1,), log_prob=(0.0,), finish="stop", version=0, text=t) for t in texts)
    prompt = Prompt(id="p", tokens=(1,), text="", answer=answer)
    reward = make_reward(grader)
    [group] = reward.grade([Group(index=3, prompt=prompt, responses=responses)])
    reward.close()
    assert (group.index, group.prompt, group.responses) == (3, prompt, responses)
    return list(group.grades)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("b 1 = 3 ; c 0 = 3 ; A 3", "3"),
        ("A 3", "3"),
        ("A 3 ; A 4", "4"),
        ("A 3 ; ; ;", "3"),
        ("A 3 A", "3"),
        ("", None),
        ("A", None),
        ("b 1 = 3 ;", None),
        ("A ; 3", None),
        ("A A", None),
        ("A 3b", None),
    ],
)
def test_a_chain_sum_ends_in_the_word_after_the_last_a(text: str, answer: str | None) -> None:
    assert final_number(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (" 13\n5 + 6 = 11\n", "13"),
        ("13", "13"),
        (" = 13 or 14", "13"),
        ("-4", "-4"),
        ("\n13", None),
        ("thirteen\n13", None),
        ("", None),
    ],
)
def test_a_sum_is_the_first_integer_of_the_first_line(text: str, answer: str | None) -> None:
    assert first_integer(text) == answer


def test_grades_are_by_value_and_say_why_there_is_no_answer() -> None:
    assert grades("first_integer", "13", " 13\n", " 013", " 12", "none") == [
        Grade(reward=1.0, correct=True),
        Grade(reward=1.0, correct=True),
        Grade(reward=0.0, correct=False),
        Grade(reward=0.0, correct=False, note="no answer found"),
    ]
    assert [g.correct for g in grades("final_number", "0", "A 0", "A -0", "A 10", "A")] == [
        True,
        True,
        False,
        False,
    ]


def test_a_number_of_any_length_is_graded() -> None:
    # Python refuses to convert text of more than 4300 digits.
    assert [g.correct for g in grades("first_integer", "7", "9" * 1_000_000, "0" * 1_000_000 + "7")] == [
        False,
        True,
    ]


def test_an_unknown_grader_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="must be one of final_number, first_integer, math, got 'maths'"):
        make_reward("maths")
    assert set(GRADERS) == {"final_number", "first_integer", "math"}
