"""Mathematical answers: equal in many forms, wrong in a bounded time whatever the text is."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from megaent.answers.key import read_key
from megaent.reward.checker_pool import CheckerPool
from megaent.reward.math_answer import MathAnswer
from megaent.reward.reward import Reward, make_reward
from megaent.types import Grade, Group, Prompt, Response

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None,
    reason="math-verify is missing: `pip install math-verify`",
)

LIMIT_S = 1.0
STAND_IN = Path(__file__).with_name("stand_in_checker.py")


@pytest.fixture(scope="module")
def reward() -> Iterator[Reward]:
    reward = make_reward("math", timeout_s=LIMIT_S, workers=2)
    yield reward
    reward.close()


def group(key: str, *texts: str) -> Group:
    responses = tuple(Response(tokens=(1,), log_prob=(0.0,), finish="stop", version=0, text=t) for t in texts)
    return Group(index=0, prompt=Prompt(id=key, tokens=(1,), text="", answer=key), responses=responses)


def grade(reward: Reward, key: str, *texts: str) -> list[Grade]:
    return list(reward.grade([group(key, *texts)])[0].grades)


@pytest.mark.parametrize(
    ("key", "equal", "different"),
    [
        (
            "18",
            ["\\boxed{18}", "The answer is 18 eggs.", "\\boxed{\\$18}", "\\boxed{36/2}"],
            ["\\boxed{81}", "18 eggs"],
        ),
        ("\\frac{1}{2}", ["\\boxed{0.5}", "\\boxed{\\dfrac12}", "Answer: 1/2"], ["The answer is 2"]),
        ("[0,1)", ["\\boxed{[0, 1)}", "\\boxed{\\left[0,1\\right)}"], ["\\boxed{(0,1)}", "\\boxed{[0,1]}"]),
        (
            "\\{1,2,3\\}",
            ["\\boxed{\\{3, 2, 1\\}}", "\\boxed{1,2,3}"],
            ["\\boxed{\\{1,2\\}}", "\\boxed{(1,2,3)}"],
        ),
        ("x^2+2x+1", ["\\boxed{(x+1)^2}", "\\boxed{1+2x+x^2}"], ["\\boxed{(x-1)^2}"]),
        ("5", ["\\boxed{x=5}", "\\boxed{\\sum_{k=1}^{5} 1}"], ["\\boxed{x=6}", "\\boxed{\\sum_{k=1}^{5} 2}"]),
        ("\\text{June}", ["\\boxed{\\text{June}}"], ["\\boxed{\\text{July}}"]),
    ],
)
def test_equal_answers_are_correct_and_others_are_not(
    reward: Reward, key: str, equal: list[str], different: list[str]
) -> None:
    assert [g.correct for g in grade(reward, key, *equal, *different)] == [True] * len(equal) + [False] * len(
        different
    )


def test_no_answer_and_nonsense_say_so(reward: Reward) -> None:
    notes = [
        g.note for g in grade(reward, "5", "I do not know", "\\boxed{5", "\\boxed{" + "1" * 2000 + "}", "")
    ]
    assert notes == ["no answer found", "no answer found", "answer too long", "no answer found"]
    nonsense = grade(reward, "5", "\\boxed{\\\\\\}}", "\\boxed{}", "\\boxed{\\frac{}{}}", "\\boxed{\0\u202e}")
    assert [g.reward for g in nonsense] == [0.0] * 4


def test_what_is_said_does_not_depend_on_the_key(reward: Reward) -> None:
    classes = [
        ["\\boxed{1000}", "The answer is 1,000", "\\boxed{1{,}000}", "\\boxed{1000.0}", "\\boxed{\\$1000}"],
        ["\\boxed{50\\%}", "Answer: 50%"],
        ["\\boxed{x + 1}", "\\boxed{x+1}"],
        ["", "\\boxed{5", "\\boxed{" + "1" * 2000 + "}"],
    ]
    for key in ("1000", "x+1"):
        said = [{g.answer for g in grade(reward, key, *texts)} for texts in classes]
        assert all(len(answers) == 1 for answers in said)
        assert len(set().union(*said)) == len(classes)
        assert said[-1] == {""}


def asked(question: str, key: str, *texts: str) -> Group:
    return replace(group(key, *texts), prompt=Prompt(id=key, tokens=(1,), text=question, answer=key))


@pytest.mark.parametrize(
    ("question", "key", "copied", "own"),
    [
        ("Simplify $\\sqrt{242}$.", "11\\sqrt2", "\\sqrt{242}", "11\\sqrt{2}"),
        ("Compute $99^2+99+1$.", "9901", "99^2 + 99 + 1", "9901"),
        ("Compute $\\dbinom{10}{3}$ by hand.", "120", "\\binom{10}{3}", "120"),
        ("Write $\\frac{6}{8}$ in lowest terms.", "\\frac{3}{4}", "\\frac{6}{8}", "\\frac34"),
        ("Express $0.\\overline{3}$ as a fraction.", "\\frac{1}{3}", "0.\\overline{3}", "1/3"),
        ("What is $17/50$ as a decimal?", "0.34", "17/50", "0.34"),
        ("Find $\\sum_{k=1}^{5} k$.", "15", "\\sum_{k=1}^{5} k", "1+2+3+4+5"),
    ],
)
def test_what_the_question_asks_to_be_done_is_no_answer(
    reward: Reward, question: str, key: str, copied: str, own: str
) -> None:
    texts = [f"\\boxed{{{copied}}}", f"\\boxed{{{own}}}"]
    first, second = reward.grade([asked(question, key, *texts)])[0].grades
    assert (first.correct, first.note) == (False, "copied from the question")
    assert second.correct
    assert all(g.correct for g in reward.grade([asked("Another question.", key, *texts)])[0].grades)


@pytest.mark.parametrize(
    ("question", "key", "answer"),
    [
        ("Is it (A) 5, (B) 7 or (C) 9?", "B", "(B)"),
        ("Which is larger, $\\sqrt{2}$ or $\\frac{7}{5}$?", "\\sqrt{2}", "\\sqrt2"),
        ("Tom has 3 apples and buys 4, what is $3 + 4$? At most 7.", "7", "7"),
        ("Which of $\\frac{1}{2}$ and $\\frac13$ is larger?", "\\frac12", "\\frac{1}{2}"),
        ("With probability 0.5 it rains. How likely is it dry?", "\\frac{1}{2}", "0.5"),
    ],
)
def test_a_key_that_stands_in_the_question_is_paid(
    reward: Reward, question: str, key: str, answer: str
) -> None:
    [only] = reward.grade([asked(question, key, f"\\boxed{{{answer}}}")])[0].grades
    assert only.correct


@pytest.fixture
def obeying() -> Iterator[MathAnswer]:
    """A grader whose checkers do what the answer says; see stand_in_checker."""
    reward = MathAnswer(timeout_s=0.3, workers=2)
    reward._pool = CheckerPool(workers=2, timeout_s=0.3, memory_mib=2048, program=STAND_IN)
    yield reward
    reward.close()


@pytest.mark.parametrize(
    ("command", "note"),
    [
        ("\\spin", "timed out"),
        ("\\die", "the checker was killed by signal 9"),
        ("\\leave", "the checker ended with code 3"),
    ],
)
def test_an_answer_that_ends_its_checker_spoils_no_other(
    obeying: MathAnswer, command: str, note: str
) -> None:
    good, bad = "\\boxed{\\fine}", f"\\boxed{{{command}}}"
    groups = obeying.grade([group("5", good, bad, good), group("7", bad), group("8", good)])
    assert [[g.correct for g in x.grades] for x in groups] == [[True, False, True], [False], [True]]
    assert groups[0].grades[1].note == groups[1].grades[0].note == note
    assert [[g.is_scored for g in x.grades] for x in groups] == [[True, False, True], [False], [True]]


def test_a_reply_of_megabytes_is_read_to_its_end(obeying: MathAnswer) -> None:
    talk, fine = grade(obeying, "5", "\\boxed{\\talk}", "\\boxed{\\fine}")
    assert not talk.correct
    assert fine.correct
    assert len(talk.note) == 3_000_000


def test_a_response_cannot_run_code(reward: Reward, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    code = f"__import__('pathlib').Path('{trace}').touch()"
    grade(reward, "5", f"\\boxed{{{code}}}", f"\\boxed{{\\text{{{code}}}}}", f"answer: {code} 5+")
    assert not trace.exists()


def test_megabytes_of_text_are_graded(reward: Reward) -> None:
    assert grade(reward, "7", "(" * 1_000_000 + "\\boxed{14/2}")[0].correct
    assert not grade(reward, "7", "\\boxed{" * 150_000)[0].correct


def test_groups_and_responses_keep_their_order(reward: Reward) -> None:
    groups = reward.grade(
        [group(f"{i}/7", *(f"\\boxed{{\\frac{{{j}}}{{7}}}}" for j in range(4))) for i in range(4)]
    )
    assert [[g.reward for g in x.grades] for x in groups] == [
        [float(i == j) for j in range(4)] for i in range(4)
    ]


def test_no_groups_is_no_work(reward: Reward) -> None:
    assert reward.grade([]) == []
    assert reward.grade([group("5")])[0].grades == ()


def documented(repository: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """(key, right answers, wrong ones) of each row of the table in docs/tasks.md."""
    page = (repository / "docs" / "tasks.md").read_text()
    rows = page.partition("| kind | key | right | wrong |\n")[2].partition("\n\n")[0].splitlines()[1:]
    for row in rows:
        _, key, right, wrong = (re.findall(r"`([^`]+)`", cell) for cell in row.strip("| ").split(" | "))
        yield key[0], right, wrong


def test_the_table_of_answers_is_what_is_paid(reward: Reward, repository: Path) -> None:
    rows = list(documented(repository))
    assert len(rows) == 22
    for key, right, wrong in rows:
        grades = grade(reward, read_key(key), *(f"So \\boxed{{{answer}}}." for answer in right + wrong))
        paid = [each.correct for each in grades]
        assert paid == [True] * len(right) + [False] * len(wrong), f"{key}: {right} {wrong}"
