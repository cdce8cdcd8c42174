"""Copies and contaminated questions, counted by hand."""

from __future__ import annotations

from megaent.data.overlap import GRAM, contaminated, copies

SENTENCE = " ".join(f"word{number}" for number in range(20))


def test_copies_have_the_same_words() -> None:
    questions = {"a": "What is 2 + 3?", "b": "what  is 2+3", "c": "What is 2 + 4?", "d": "WHAT IS 2, 3!"}
    assert copies(questions) == [("b", "a"), ("d", "a")]


def test_thirteen_words_in_a_row_are_shared_or_not() -> None:
    words = SENTENCE.split()
    twelve, thirteen = " ".join(words[4:16]), " ".join(words[4:17])
    assert GRAM == 13
    questions = {"12": f"Now {twelve} and on.", "13": f"Now, {thirteen}; and on.", "none": "something else"}
    found = contaminated(questions, {"test": SENTENCE})
    assert [(shared.place, shared.other, shared.words) for shared in found] == [("13", "test", thirteen)]


def test_a_short_question_is_shared_as_a_whole() -> None:
    against = {"test": "What is 2 + 3?"}
    found = contaminated({"same": "what is 2 + 3", "longer": "What is 2 + 3 + 4?", "empty": "?"}, against)
    assert [shared.place for shared in found] == ["same"]
    assert contaminated({"a": "?"}, {"b": "!"}) == []
