"""Mathematical answers: equal in many forms, wrong in a bounded time whatever the text is."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaent.reward.reward import Reward, make_reward
from megaent.types import Grade, Group, Prompt, Response

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None,
    reason="math-verify is missing: `pip install math-verify`",
)

LIMIT_S = 1.0


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
        ("18", ["\\boxed{18}", "so 18 eggs.", "\\boxed{\\$18}", "\\boxed{36/2}"], ["\\boxed{81}"]),
        ("\\frac{1}{2}", ["\\boxed{0.5}", "\\boxed{1/2}", "\\boxed{\\dfrac12}", "it is 1/2"], ["it is 2"]),
        ("\\frac{3}{4}", ["\\boxed{75\\%/100}", "\\boxed{0.75}"], ["\\boxed{\\frac{4}{3}}"]),
        ("50\\%", ["\\boxed{50\\%}", "\\boxed{0.5}"], ["\\boxed{5\\%}"]),
        ("10000", ["\\boxed{10^4}", "\\boxed{10{,}000}"], ["\\boxed{10^3}"]),
        ("2\\sqrt{2}", ["\\boxed{\\sqrt{8}}", "\\boxed{2 \\sqrt 2}"], ["\\boxed{\\sqrt{2}}"]),
        ("[0,1)", ["\\boxed{[0, 1)}", "\\boxed{\\left[0,1\\right)}"], ["\\boxed{(0,1)}", "\\boxed{[0,1]}"]),
        ("(-\\infty, 2]", ["\\boxed{(-\\infty,2]}"], ["\\boxed{(-\\infty,2)}"]),
        ("\\{1,2,3\\}", ["\\boxed{\\{3, 2, 1\\}}", "\\boxed{1,2,3}"], ["\\boxed{\\{1,2\\}}"]),
        ("(3,\\frac{\\pi}{2})", ["\\boxed{(3, \\pi/2)}"], ["\\boxed{(\\frac{\\pi}{2}, 3)}"]),
        ("x^2+2x+1", ["\\boxed{(x+1)^2}", "\\boxed{1+2x+x^2}"], ["\\boxed{(x-1)^2}"]),
        ("5", ["\\boxed{x=5}", "\\boxed{5\\text{ cm}}"], ["\\boxed{x=6}"]),
        ("\\text{June}", ["\\boxed{\\text{June}}"], ["\\boxed{\\text{July}}"]),
        (
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
            ["\\boxed{\\begin{bmatrix}1\\\\2\\end{bmatrix}}"],
            ["\\boxed{(2,1)}"],
        ),
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


def test_answers_that_looking_finds_equal_are_one_text(reward: Reward) -> None:
    classes = [
        ["\\boxed{1000}", "it is 1,000", "\\boxed{1{,}000}", "\\boxed{1000.0}", "\\boxed{\\$1000}"],
        ["\\boxed{-0.5}", "\\boxed{-.50}"],
        ["\\boxed{50\\%}", "50%"],
        ["\\boxed{x + 1}", "\\boxed{x+1}"],
        ["", "\\boxed{5", "\\boxed{" + "1" * 2000 + "}"],
    ]
    # The key takes no part: what is said is the same text whether or not it is correct.
    for key in ("1000", "x+1"):
        said = [{g.answer for g in grade(reward, key, *texts)} for texts in classes]
        assert all(len(answers) == 1 for answers in said)
        assert len(set().union(*said)) == len(classes)
        assert said[-1] == {""}


def test_hostile_answers_are_wrong_within_the_limit() -> None:
    hostile = [
        "9^{9^{9^{9}}}",
        "9**9**9**9",
        "\\binom{10^8}{10^7}",
        "\\sum_{n=1}^{10^9} \\sin(n!)",
        "(" * 400 + "1" + ")" * 400,
        "\\frac{1}{" * 90 + "2" + "}" * 90,
        "x" * 990,
    ]
    reward = make_reward("math", timeout_s=0.5, workers=2)
    started = time.monotonic()
    verdicts = grade(reward, "5", *(f"\\boxed{{{answer}}}" for answer in hostile))
    # Each may use its wall-clock limit, 4 times its processor time and 2 s, and a new checker's start.
    assert time.monotonic() - started < len(hostile) * (4 * 0.5 + 2 + 20) / 2
    reward.close()
    assert [v.reward for v in verdicts] == [0.0] * len(hostile)
    assert {v.note for v in verdicts} <= {"", "timed out", "out of memory", "answer not understood"}
    assert verdicts[0].note == "timed out"


def test_a_stuck_answer_does_not_spoil_its_neighbours(reward: Reward) -> None:
    good, stuck = "\\boxed{\\frac{2}{4}}", "\\boxed{9^{9^{9^{9}}}}"
    groups = reward.grade([group("0.5", good, stuck, good), group("1/2", stuck), group("0.50", good)])
    assert [[g.correct for g in x.grades] for x in groups] == [[True, False, True], [False], [True]]
    assert groups[0].grades[1].note == groups[1].grades[0].note == "timed out"


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
