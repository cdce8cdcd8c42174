"""Near copies are those that a comparison of every pair finds."""

from __future__ import annotations

import random

import pytest

from megaent.data.near_copies import near_copies
from megaent.data.overlap import words_of


def runs(text: str) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))}


def similarity(one: str, other: str) -> float:
    return len(runs(one) & runs(other)) / len(runs(one) | runs(other))


@pytest.mark.parametrize("least", [0.8, 0.9])
def test_every_pair_compared_finds_the_same(least: float) -> None:
    draw = random.Random(0)
    texts: dict[str, str] = {}
    for number in range(300):
        words = [f"w{draw.randrange(5000)}" for _ in range(draw.randrange(8, 60))]
        texts[f"{number}"] = " ".join(words)
        for change in range(draw.randrange(3)):
            words[draw.choice([0, -1, len(words) // 2])] = "other"
            texts[f"{number}.{change}"] = " ".join(words).upper()
    kept: list[str] = []
    expected = {}
    for place, text in texts.items():
        near = {other: similarity(text, texts[other]) for other in kept}
        best = max(near, key=lambda other: near[other], default=None)
        if best is not None and near[best] >= least:
            expected[place] = (best, near[best])
        else:
            kept.append(place)
    found = near_copies(texts, least=least)
    assert {near.place: (near.other, near.similarity) for near in found} == expected
    assert len(expected) > 50


def test_short_texts_are_compared_whole_and_empty_ones_are_alone() -> None:
    texts = {"a": "What is 2 + 2?", "b": "what is 2 2", "c": "What is 2 + 3?", "d": "", "e": "!"}
    assert near_copies(texts, least=0.8) == [("b", "a", 1.0)]
