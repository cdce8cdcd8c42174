"""Where the final answer of a response stands, and which responses have none."""

from __future__ import annotations

import time

import pytest

from megaent.answers.find import TAIL, find_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so $\\boxed{42}$.", "42"),
        ("\\boxed{1}, no: \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}} and 7", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{ \\{1, 2\\} }", "\\{1, 2\\}"),
        ("\\boxed 7 is it", "7"),
        ("$\\boxed 7$", "7"),
        ("\\fbox{x}", "x"),
        ("\\boxed{3}. That is correct.", "3"),
        ("\\boxed{3}. I hope it is correct.", "3"),
        ("Final Answer: $\\boxed{7}$, hence the answer is 7.", "7"),
        ("\\boxed{\\frac12}. So the answer is $0.5$.", "\\frac12"),
        ("$\\boxed{3}$ and $\\boxed{4}$", "3, 4"),
        ("\\(\\boxed{x=3}\\) or \\(\\boxed{x=4}\\)", "x=3, x=4"),
        ("<think>\\boxed{1}</think> \\boxed{2}", "2"),
        ("$\\boxed{\\frac12}$ or $0.5$.", "\\frac12"),
    ],
)
def test_a_box_says_the_answer(response: str, answer: str) -> None:
    assert find_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("The answer is 1,234.", "1,234"),
        ("The answer is 3.14.", "3.14"),
        ("The answer is .375", ".375"),
        ("The answer is $\\frac{14}{5}$.", "\\frac{14}{5}"),
        ("The answer is $\\frac{14}{5}$, as shown in step 9.", "\\frac{14}{5}"),
        ("The final answer is $x^2$. I hope it is correct.", "x^2"),
        ("The answer is 12. I checked all 15 cases.", "12"),
        ("The answer is 7, by step 2", "7"),
        ("The answer is x=5, y=6", "x=5, y=6"),
        ("The answer is (2, 3).", "(2, 3)"),
        ("The answer is $2$ or $3$.", "2, 3"),
        ("The solutions are x = 2 and x = 3.", "x = 2 and x = 3"),
        ("The answer is B, not A.", "B"),
        ("The correct option is (D).", "(D)"),
        ("So the answer is **odd**.", "odd"),
        ("The answer is 42!", "42"),
        ("Answer: 12.5 cm", "12.5 cm"),
        ("**Answer:** 42", "42"),
        ("**Answer: 42**", "42"),
        ("Ans: 42", "42"),
        ("It follows.\n#### 12", "12"),
        ("**Final Answer**\n\n\\[\n\\frac{1}{2}\n\\]", "\\frac{1}{2}"),
        ("## Final Answer\n$$42$$", "42"),
        ("The first answer is 3 but it is odd.\nThe answer is 4.", "4"),
        ("So \\(x = \\frac{1}{2}\\).", "x = \\frac{1}{2}"),
        ("Both vanish. Therefore $9$.", "9"),
        ("$42$", "42"),
        ("So $\\frac{1}{2}$ is the final answer.", "\\frac{1}{2}"),
        ("42", "42"),
        ("<think>6</think>\n<answer> 5 </answer>", "5"),
        ("\\boxed{6} <answer>5</answer>", "5"),
        ("<answer>4</answer> <answer>\n5\n</answer>\n", "5"),
        ("<answer>$\\frac{1}{2}$</answer>", "$\\frac{1}{2}$"),
        ("<answer>Add them: \\boxed{5}</answer>", "5"),
        ("<answer>The answer is 5.</answer>", "5"),
        ("<answer>Monday</answer>", "Monday"),
    ],
)
def test_without_a_box_the_answer_is_what_the_text_states(response: str, answer: str) -> None:
    assert find_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "",
        "I do not know.",
        "\\boxed{}",
        "\\boxed{5",
        "\\boxed{1}, or rather \\boxed{2",
        "3 + 4 = 7 and 7 - 2 = 5",
        "She sells 18 eggs.",
        "Step 1: read it. Step 2",
        "The answer is",
        "The answer is ...",
        "The answer is not 5.",
        "The answer is one of 1, 2, 3.",
        "The answer is either 5 or 6.",
        "If the answer is 5, we are done.",
        "I don't think the answer is 5.",
        "The answer is 5. Wait, no: a factor is missing.",
        "\\boxed{5}. But that is wrong.",
        "\\boxed{5} or 6.",
        "$\\boxed{5}$ (or $6$)",
        "$5$ is not the answer.",
        "\\boxed{5}. Hold on, let me check.",
        "$\\boxed{5}$ is not the answer.",
        "\\boxed{5} was a guess, but the answer is 6.",
        "<think>The answer is 5",
        "<answer>5",
        "<answer></answer>",
        "<answer>5</answer> wait, that is wrong",
        "<answer>Add 2 and 3.\nThen 5 and 6.</answer>",
        "<think>\\boxed{5}</think>I do not know.",
    ],
)
def test_what_is_unstated_cut_off_or_taken_back_is_no_answer(response: str) -> None:
    assert find_answer(response) is None


def test_only_the_end_of_a_long_response_is_read() -> None:
    assert find_answer("\\boxed{1}" + "x" * (2 * TAIL)) is None
    assert find_answer("9 " * TAIL + "\\boxed{1}") == "1"


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 200_000,
        "{" * 1_000_000,
        "1," * 500_000,
        "\\boxed{" + "{" * 400_000 + "}" * 400_000 + "}",
        "-" * 1_000_000 + "7",
        "\\" * 1_000_000 + "boxed{3}",
        "The answer is " * 100_000,
        "$" * 1_000_000,
        "\\boxed{1} answer: " + "1, " * 300_000,
        "so " * 300_000 + "$5$",
        "\n" * 1_000_000,
        "\\[" * 500_000,
        "** " * 300_000,
    ],
    ids=range(13),
)
def test_a_megabyte_of_anything_is_read_at_once(text: str) -> None:
    started = time.process_time()
    find_answer(text)
    assert time.process_time() - started < 1.0
