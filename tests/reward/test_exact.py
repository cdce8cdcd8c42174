"""Integers in an agreed place, and the registry of graders."""

from __future__ import annotations

import pytest

from megaent.errors import ConfigError
from megaent.reward.exact import final_number, first_integer, last_result
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


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("= 10", "10"),
        ("so a 3 ; b 7 = 10 ; c 9 = 6", "6"),
        ("so a 3 ; b 7 = 10 chk 10", "10"),
        ("= 4 = 5", "5"),
        ("= 4 =", "4"),
        ("", None),
        ("=", None),
        ("= ;", None),
        ("so a 3", None),
        ("10", None),
    ],
)
def test_an_answer_of_two_strategies_is_its_last_result(text: str, answer: str | None) -> None:
    assert last_result(text) == answer


def test_equal_answers_are_the_same_text_whatever_the_key() -> None:
    texts = ["A 7", "A +7", "A 007", "A -0", "A 0", "A -12", "b 7"]
    for key in ("7", "12"):
        assert [g.answer for g in grades("final_number", key, *texts)] == ["7", "7", "7", "0", "0", "-12", ""]


def test_grades_are_by_value_and_say_why_there_is_no_answer() -> None:
    assert grades("first_integer", "13", " 13\n", " 013", " 12", "none") == [
        Grade(reward=1.0, correct=True, answer="13"),
        Grade(reward=1.0, correct=True, answer="13"),
        Grade(reward=0.0, correct=False, answer="12"),
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
    with pytest.raises(ConfigError, match=r"must be one of final_number, .*, math, .*, got 'maths'"):
        make_reward("maths")
    by_text, others = {"exact", "choice", "boxed", "thought"}, {"code", "remote", "reasoning_gym"}
    assert set(GRADERS) == {"final_number", "last_result", "first_integer", "math", *others, *by_text}
