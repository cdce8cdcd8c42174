"""PEAR's reward on responses whose phases are counted by hand."""

from __future__ import annotations

import pytest
import torch
from support.golden_inputs import experience, seen

from megaent.objective.phase_entropy import PhaseEntropy


def rewards(entropy: list[float], thinking: list[int], lengths: list[int], **options: float) -> list[float]:
    flags = torch.tensor(thinking, dtype=torch.bool)
    batch = experience(lengths, [1.0] * len(lengths), entropy=entropy, in_thinking=flags)
    return PhaseEntropy(**options)(batch.reward, seen(batch)).tolist()


def test_the_token_that_ends_the_thinking_part_is_in_neither() -> None:
    found = rewards([0.5, 0.3, 100.0, 0.1, 0.3], [1, 1, 0, 0, 0], [5])
    assert found == pytest.approx([1 - (0.4 - 0.2)])


def test_a_response_may_end_with_it_or_begin_with_it_or_lack_it() -> None:
    entropy = [0.5, 9.0, 9.0, 0.2, 0.4, 0.3]
    found = rewards(entropy, [1, 0, 0, 0, 1, 1], [2, 2, 2])
    assert found == pytest.approx([0.5, 1.0, 1 - 0.35])


def test_a_response_takes_nothing_from_the_one_before_it() -> None:
    together = rewards([0.5, 0.1, 0.7, 0.9, 0.2], [1, 1, 0, 0, 0], [2, 3])
    assert together == pytest.approx([rewards([0.5, 0.1], [1, 1], [2])[0], 1.0])


def test_less_entropy_than_the_answer_s_costs_nothing() -> None:
    entropy, thinking = [0.5, 0.0, 0.3], [1, 0, 0]
    assert rewards(entropy, thinking, [3], alpha=2.0) == [1.0]
    assert rewards(entropy, thinking, [3], alpha=0.5, score=0.9) == pytest.approx([0.9 - 0.35])


def test_a_wrong_response_must_be_worth_less_than_a_right_one() -> None:
    with pytest.raises(ValueError, match="wrong must lie in"):
        PhaseEntropy(score=0.5, wrong=0.5)
