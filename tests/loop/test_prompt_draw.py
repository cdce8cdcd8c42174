"""Prompts drawn by what earlier steps told of them: their chances, their state, none twice in a step."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain

import pytest
from support.tiny_loop import Judge, make_trainer

from megaent.data.curriculum import CurriculumOptions, difficulties
from megaent.errors import CheckpointError, ConfigError, DataError
from megaent.loop.prompt_draw import PromptDraw, Visit, visit
from megaent.types import Grade, Group, Prompt, Response


def prompts(number: int, **fields: object) -> list[Prompt]:
    return [
        Prompt(id=f"p{i}", tokens=(1,), text="", answer="", split=f"n={i}", **fields)  # type: ignore[arg-type]
        for i in range(number)
    ]


def draw(number: int, seed: int = 0, **options: object) -> PromptDraw:
    return PromptDraw(CurriculumOptions(**options), prompts(number), seed=seed)  # type: ignore[arg-type]


def take(
    drawn: PromptDraw, step: int, attempt: int = 0, *, per_step: int = 4, progress: float = 0.0
) -> list[str]:
    taken = drawn.take(step, attempt, per_step=per_step, progress=progress, leader=0, leaders=1)
    assert [place for place, _ in taken] == list(range(len(taken)))
    return [prompt.id for _, prompt in taken]


def graded(name: str, answers: str, correct: str) -> Group:
    response = Response(tokens=(1,), log_prob=(0.0,), finish="stop", version=0)
    grades = tuple(Grade(reward=0.0, correct=a == correct, answer=a) for a in answers)
    prompt = Prompt(id=name, tokens=(1,), text="", answer="")
    return Group(index=0, prompt=prompt, responses=(response,) * len(answers), grades=grades)


def test_one_of_two_comes_as_often_as_its_weight_says() -> None:
    """p1, always right in 30 of 30, weighs 4 * 31/32 * 1/32; p0 is unknown and weighs 1."""
    drawn = draw(2, by="accuracy", floor=0.01)
    drawn.note([Visit("p1", correct=30, responses=30, entropy=0.0)])
    drawn.settle()
    weight = 4 * 31 / 32 * 1 / 32
    share = sum(take(drawn, step, per_step=1) == ["p1"] for step in range(4000)) / 4000
    expected = weight / (1 + weight)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_earlier_visits_count_half_at_each_new_one() -> None:
    drawn = draw(3, by="accuracy")
    for correct in (8, 0, 4):
        drawn.note([Visit("p2", correct=correct, responses=8, entropy=0.0)])
        drawn.settle()
    assert drawn.state() == {
        "by": "accuracy",
        "past": {"p2": [0.5 * (0.5 * 8 + 0) + 4, 0.5 * (0.5 * 8 + 8) + 8]},
    }


def test_entropy_is_that_of_the_last_answers() -> None:
    """Four answers in two pairs: ln 2 of at most ln 4."""
    drawn = draw(5, by="semantic_entropy")
    drawn.note([visit(graded("p0", "aabb", "a")), visit(graded("p1", "aaaa", "a"))])
    drawn.settle()
    ids = [f"p{i}" for i in range(5)]
    counts = Counter(chain(*(take(drawn, step, per_step=1) for step in range(6000))))
    for name, weight in zip(ids, (0.5, 0.05, 1, 1, 1), strict=True):
        expected = weight / 3.55
        assert counts[name] / 6000 == pytest.approx(expected, abs=4 * (expected / 6000) ** 0.5)


def test_visits_count_from_the_next_step_on() -> None:
    one, other = draw(30, by="accuracy"), draw(30, by="accuracy")
    one.note([Visit(f"p{i}", correct=8, responses=8, entropy=0.0) for i in range(20)])
    assert [take(one, 5, attempt) for attempt in (0, 1)] == [take(other, 5, attempt) for attempt in (0, 1)]


@pytest.mark.parametrize("options", [{"by": "accuracy"}, {"by": "difficulty", "start": 0.2, "until": 1.0}])
def test_no_prompt_twice_in_a_step_nor_in_its_attempts(options: dict) -> None:
    """Of 30 by difficulty 6 are open: the first attempt asks 4 of them, the others go on to harder ones."""
    drawn = draw(30, **options)
    for step in range(50):
        asked = list(chain(*(take(drawn, step, attempt) for attempt in range(5))))
        assert len(set(asked)) == 20


def test_leaders_share_the_draw_and_seeds_differ() -> None:
    drawn = draw(30, by="accuracy")
    whole = drawn.take(3, 0, per_step=7, progress=0.0, leader=0, leaders=1)
    parts = [drawn.take(3, 0, per_step=7, progress=0.0, leader=r, leaders=3) for r in range(3)]
    assert sorted(chain(*parts), key=lambda pair: pair[0]) == whole
    assert take(draw(30, by="accuracy", seed=1), 3) != take(drawn, 3) != take(drawn, 4)


def test_the_easiest_come_first_and_then_all() -> None:
    drawn = draw(40, by="difficulty", start=0.25, until=0.5)
    for progress, number in ((0.0, 10), (0.25, 25), (0.5, 40), (0.99, 40)):
        asked = set(chain(*(take(drawn, step, progress=progress) for step in range(200))))
        assert asked == {f"p{i}" for i in range(number)}


def test_a_difficulty_that_is_not_told_is_refused() -> None:
    with pytest.raises(DataError, match="level of every prompt, and p0 has ''"):
        draw(3, by="difficulty", label="level")
    levels = PromptDraw(
        CurriculumOptions(by="difficulty", start=0.5),
        [
            Prompt(id=f"p{i}", tokens=(1,), text="", answer="", labels=(("level", f"Level {9 - i}"),))
            for i in range(10)
        ],
        seed=0,
    )
    assert set(chain(*(take(levels, step) for step in range(100)))) == {f"p{i}" for i in range(5, 10)}


@pytest.mark.parametrize(
    ("told", "number"),
    [
        ("level-5", 5),
        ("grade3", 3),
        ("n=-3", -3),
        ("-2.5", -2.5),
        (".5", 0.5),
        ("1e-7", 1e-7),
        ("2.5e3 points", 2500),
        ("v1.5", 1.5),
        ("Level 4", 4),
    ],
)
def test_the_number_in_a_label(told: str, number: float) -> None:
    prompt = Prompt(id="p", tokens=(1,), text="", answer="", labels=(("level", told),))
    assert difficulties([prompt], "") == [number]


def test_a_state_goes_on_and_others_are_refused() -> None:
    drawn = draw(30, by="accuracy")
    drawn.note([Visit(f"p{i}", correct=i % 5, responses=4 + i % 3, entropy=0.0) for i in range(20)])
    drawn.settle()
    again = draw(30, by="accuracy")
    again.load_state(json.loads(json.dumps(drawn.state())))
    assert [take(again, step) for step in range(20)] == [take(drawn, step) for step in range(20)]
    assert again.state() == drawn.state()
    for other in (draw(30, by="semantic_entropy"), draw(10, by="accuracy")):
        with pytest.raises(CheckpointError, match="curriculum is by 'accuracy' and knows 20 prompts"):
            other.load_state(drawn.state())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"by": "odd"}, "must be one of difficulty, accuracy, semantic_entropy"),
        ({"floor": 0.5}, "floor has no effect"),
        ({"by": "accuracy", "start": 0.5}, "start has no effect"),
        ({"by": "difficulty", "floor": 0.5}, "floor has no effect"),
        ({"by": "difficulty", "until": 0.0}, r"until must lie in \(0, 1\]"),
    ],
)
def test_options_without_effect_are_refused(options: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        CurriculumOptions(**options)


# ---------------------------------------------------------------- in the loop


def asked(judge: Judge, first: int, last: int) -> list[list[str]]:
    """Of steps of 8 prompts."""
    ids = [group.prompt.id for group in judge.seen]
    return [ids[8 * step : 8 * step + 8] for step in range(first, last)]


@pytest.mark.parametrize("by", ["accuracy", "semantic_entropy"])
def test_a_run_learns_from_its_grades_and_goes_on_from_its_state(by: str) -> None:
    options = CurriculumOptions(by=by)
    judge, later = Judge(lambda tokens: tokens[0] % 3 == 0), Judge(lambda tokens: tokens[0] % 3 == 0)
    whole = make_trainer(reward=judge, curriculum=options)
    for step in range(1, 5):
        whole.step(step)
    state = json.loads(json.dumps(whole.course.state.state()))
    past: dict[str, tuple[float, float]] = {}
    for group in judge.seen:
        value, of = past.get(group.prompt.id, (0.0, 0.0))
        right = sum(grade.correct for grade in group.grades)
        past[group.prompt.id] = (0.5 * value + right, 0.5 * of + 4)
    assert state["draw"]["past"].keys() == past.keys()
    if by == "accuracy":
        assert {name: tuple(known) for name, known in state["draw"]["past"].items()} == past
    for step in range(5, 9):
        whole.step(step)
    again = make_trainer(reward=later, curriculum=options)
    again.course.state.load_state(state)
    again.publish(4)
    for step in range(5, 9):
        again.step(step)
    assert asked(later, 0, 4) == asked(judge, 4, 8)
    assert all(len(set(step)) == 8 for step in asked(judge, 0, 8))


def test_a_run_with_and_one_without_a_curriculum_do_not_take_each_other_s_state() -> None:
    drawn, plain = make_trainer(curriculum=CurriculumOptions(by="accuracy")), make_trainer()
    for one, other in ((drawn, plain), (plain, drawn)):
        with pytest.raises(CheckpointError, match="whether prompts are drawn by a curriculum"):
            one.course.state.load_state(other.course.state.state())


def test_attempts_of_dynamic_sampling_ask_other_prompts() -> None:
    judge = Judge(lambda tokens: False)
    trainer = make_trainer(
        reward=judge, curriculum=CurriculumOptions(by="accuracy"), method={"dapo": {"max_batches": 3}}
    )
    trainer.collector.collect(1)
    assert len({group.prompt.id for group in judge.seen}) == 24
