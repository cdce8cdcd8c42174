"""reasoning-gym's tasks: items drawn again, a split that does not leak, verdicts that cannot be bought."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaent.data.reasoning_gym import ReasoningGymOptions, load_reasoning_gym
from megaent.errors import ConfigError, MissingDependency
from megaent.puzzles.answers import EVALUATED, is_safe, own_verdict
from megaent.puzzles.puzzles import Item, Puzzles
from megaent.reward.puzzle_answer import PuzzleAnswer, stated_answer
from megaent.types import Group, Prompt, Response

pytest.importorskip("reasoning_gym", reason="reasoning-gym is missing: `pip install reasoning-gym==0.1.25`")
pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def puzzles() -> Iterator[Puzzles]:
    puzzles = Puzzles(workers=2)
    yield puzzles
    puzzles.close()


def test_the_same_item_is_drawn_again_elsewhere(puzzles: Puzzles) -> None:
    """Also of tasks whose items depend on the order of sets."""
    for task in ("word_ladder", "ransom_note", "leg_counting"):
        other = Puzzles(workers=1)
        assert other.draw(task, level=0, size=60)[40:] == puzzles.draw(task, level=0, size=60)[40:]
        other.close()


def test_levels_are_difficulties(puzzles: Puzzles) -> None:
    lengths = [
        sum(len(item.question) for item in puzzles.draw("chain_sum", level=n, size=20)) for n in (0, 2, 4)
    ]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 3


def test_nothing_evaluated_is_trained_on(byte_model: Path) -> None:
    options = ReasoningGymOptions(
        tasks="leg_counting, coin_flip", items=60, eval_fraction=0.3, template="plain"
    )
    task = load_reasoning_gym(options, byte_model, max_prompt_tokens=4000)
    asked = [json.loads(prompt.answer)["question"] for prompt in task.train]
    held_out = [json.loads(prompt.answer)["question"] for prompt in task.evaluation]
    assert len(asked) == len(set(asked))
    assert not set(asked) & set(held_out)
    assert {prompt.split for prompt in task.evaluation[:2]} == {"leg_counting", "coin_flip"}
    larger = ReasoningGymOptions(tasks="leg_counting", items=90, eval_fraction=0.3, template="plain", seed=1)
    more = load_reasoning_gym(larger, byte_model, max_prompt_tokens=4000)
    assert not {json.loads(prompt.answer)["question"] for prompt in more.train} & set(held_out)
    assert any("leg_counting: " in note for note in task.notes)


@pytest.mark.parametrize("name", ["no_such_task", "composite"])
def test_a_task_must_exist(puzzles: Puzzles, name: str) -> None:
    with pytest.raises(ConfigError, match="must be one of ab, acre, "):
        puzzles.draw(name, level=-1, size=1)


def test_a_level_must_exist(puzzles: Puzzles) -> None:
    with pytest.raises(ConfigError, match="acre has no levels"):
        puzzles.draw("acre", level=1, size=1)
    with pytest.raises(ConfigError, match=r"data\.level must be 0 or more"):
        ReasoningGymOptions(tasks="acre", level=-2)


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'megaent\[tasks\]'"):
        Puzzles()


# ---------------------------------------------------------------- verdicts


def grade(item: Item, *texts: str) -> list[tuple[bool, float, str, bool]]:
    reward = PuzzleAnswer(workers=1)
    prompt = Prompt(id="p", tokens=(), text="", answer=item.key)
    responses = tuple(Response(tokens=(), log_prob=(), finish="stop", version=0, text=text) for text in texts)
    (graded,) = reward.grade([Group(index=0, prompt=prompt, responses=responses)])
    reward.close()
    return [(grade.correct, grade.reward, grade.note, grade.is_scored) for grade in graded.grades]


def test_full_marks_or_nothing(puzzles: Puzzles) -> None:
    item = puzzles.draw("leg_counting", level=-1, size=1)[0]
    said = grade(
        item,
        f"<think><answer>0</answer></think>So <answer>{item.answer}</answer>",
        f"<answer>{item.answer}</answer> No: <answer>1</answer>",
        f"<answer>it is {item.answer} legs</answer>",  # reasoning-gym pays a part of a mark
        f"{item.answer}",
    )
    assert said[0] == (True, 1.0, "", True)
    assert [each[:2] for each in said[1:]] == [(False, 0.0)] * 3
    assert said[3][2] == "no answer found"


def test_an_item_of_another_version_is_no_verdict(puzzles: Puzzles) -> None:
    item = puzzles.draw("leg_counting", level=-1, size=1)[0]._replace(question="another question")
    ((correct, _, note, is_scored),) = grade(item, f"<answer>{item.answer}</answer>")
    assert (correct, is_scored) == (False, False)
    assert "another version of reasoning-gym" in note


def test_what_python_would_evaluate_does_not_reach_it(puzzles: Puzzles) -> None:
    item = puzzles.draw("string_insertion", level=-1, size=1)[0]
    calls = ["print()", "[print()]", "[].clear()", "(lambda: 1)()", "'a'.upper()"]
    assert {note for _, _, note, _ in grade(item, *[f"<answer>{call}</answer>" for call in calls])} == {
        "no answer of this task"
    }
    assert grade(item, f"<answer>{item.answer}</answer>")[0][0]
    for task in EVALUATED:
        assert not any(is_safe(task, call) for call in ("print()", "x.y", "open(x)", "__import__(x)", "x=1"))
    assert is_safe("simple_integration", "x**2/2 + sin(3*x) - 0.5*exp(x) + C")


def test_what_was_drawn_before_does_not_matter(puzzles: Puzzles) -> None:
    items = puzzles.draw("list_functions", level=-1, size=8)
    assert all(each.correct for each in puzzles.judge([(item, item.answer or "") for item in items]))


def test_three_verifiers_are_replaced() -> None:
    for said, correct in (("0.3125", True), ("5/16", True), ("0.31251", True), ("0", False), ("0.3", False)):
        assert own_verdict("coin_flip", said, {"answer": "0.3125"}) is correct
    halting = {"answer": "False"}
    assert own_verdict("game_of_life_halting", " False\n", halting) is True
    assert own_verdict("game_of_life_halting", "I do not know", halting) is False
    numbers = {"metadata": {"numbers": [8, 3, 8, 3]}}
    assert own_verdict("puzzle24", "8/(3-8/3)", numbers) is True
    for wrong in ("8*3", "8+8+8+0", "3*8+8-8", "8*3+(8-8)/3", "", "8**3-3*8", "(8*3+3/8)+0"):
        assert own_verdict("puzzle24", wrong, numbers) is False, wrong
    assert own_verdict("leg_counting", "3", {}) is None


def test_the_last_answer_after_the_thinking_counts() -> None:
    assert stated_answer("<answer>1</answer> <answer> 2\n3 </answer>") == "2\n3"
    assert stated_answer("<think><answer>1</answer></think>") is None
    assert stated_answer("<answer><answer>4</answer>") == "4"
    for none in ("", "<answer></answer>", "<answer>1", "1</answer>"):
        assert stated_answer(none) is None
