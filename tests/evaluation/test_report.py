"""What is told of graded responses, on cases small enough to count by hand."""

from __future__ import annotations

import math

from megaent.evaluation.report import by_label, compare, report, state
from megaent.types import Grade, Group, Prompt, Response

RIGHT = Grade(reward=1.0, correct=True, answer="7")
WRONG = Grade(reward=0.0, correct=False, answer="5")
NOTHING = Grade(reward=0.0, correct=False, note="no answer found")
FAILED = Grade(reward=0.0, correct=False, note="timed out", answer="7", is_scored=False)


def group(name: str, grades: list[Grade], lengths: list[int], labels: dict[str, str] | None = None) -> Group:
    responses = tuple(
        Response(
            tokens=tuple(range(length)),
            log_prob=(-math.log(2),) * length,
            finish="length" if length == 9 else "stop",
            version=0,
        )
        for length in lengths
    )
    prompt = Prompt(id=name, tokens=(1,), text="?", answer="7", labels=tuple((labels or {}).items()))
    return Group(index=0, prompt=prompt, responses=responses, grades=tuple(grades))


def test_a_failed_checker_is_no_wrong_answer() -> None:
    told = report([group("a", [RIGHT, WRONG, NOTHING, FAILED], [1, 2, 9, 4])], [1, 3, 4], has_entropy=True)
    assert (told.correct, told.wrong, told.unparsable, told.unscored, told.truncated) == (1, 1, 1, 1, 1)
    assert told.estimates["avg@1"].value == 1 / 3
    assert told.estimates["pass@3"].value == 1.0
    assert told.estimates["pass@4"].value is None, "three verdicts say nothing of four"
    assert [state(grade) for grade in (RIGHT, WRONG, NOTHING, FAILED)] == [
        "correct", "wrong", "unparsable", "unscored",
    ]  # fmt: skip


def test_lengths_and_entropy_by_position() -> None:
    told = report(
        [group("a", [RIGHT, WRONG], [1, 3]), group("b", [WRONG, NOTHING], [8, 9])], [2], has_entropy=True
    )
    assert (told.lengths.mean, told.lengths.correct, told.lengths.wrong) == (5.25, 1.0, 20 / 3)
    assert told.lengths.quantiles == {0.1: 1, 0.5: 3, 0.9: 9, 0.99: 9}
    assert told.lengths.histogram == {1: 1, 4: 1, 8: 1, 16: 1}
    places = [(part.first, part.last, part.tokens) for part in told.entropy]
    assert places == [(0, 0, 4), (1, 1, 3), (2, 3, 5), (4, 7, 8), (8, 15, 1)]
    assert all(math.isclose(part.nats, math.log(2)) for part in told.entropy)
    assert not report([group("a", [RIGHT], [1])], [1], has_entropy=False).entropy


def test_labels_that_tell_prompts_apart_make_tables() -> None:
    groups = [
        group("a", [RIGHT], [1], {"level": "5", "subject": "Algebra"}),
        group("b", [RIGHT], [1], {"level": "1", "subject": "Algebra"}),
        group("c", [RIGHT], [1]),
    ]
    cuts = by_label(groups)
    assert list(cuts) == ["level"]
    assert {value: [g.prompt.id for g in part] for value, part in cuts["level"].items()} == {
        "1": ["b"],
        "5": ["a"],
    }


def test_a_comparison_gives_the_published_measures() -> None:
    ours = [group("a", [RIGHT, RIGHT], [1, 3]), group("b", [RIGHT, WRONG], [2, 2]), group("c", [FAILED], [1])]
    base = [group("a", [RIGHT, WRONG], [8, 8]), group("b", [RIGHT, WRONG], [8, 8]), group("c", [RIGHT], [8])]
    told = compare(ours, base)
    assert told is not None
    assert (told.accuracy.prompts, told.accuracy.difference) == (2, 0.25)
    assert (told.base_accuracy, told.base_length) == (0.5, 8.0)
    assert math.isclose(told.l_acc or 0, 0.75 * math.sqrt(0.75))
    assert math.isclose(told.nag or 0, -50 / math.sqrt(0.75))
    assert math.isclose(told.aes or 0, 0.75 + 5 * 0.5)
