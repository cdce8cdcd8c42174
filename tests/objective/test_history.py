"""What is remembered of prompts, against hand-computed values and restarts."""

from __future__ import annotations

import json
import pickle
import random

import pytest
import torch

from megaent.objective.history import Outcome, PromptHistory
from megaent.objective.method import History

IDS = [f"p{number}" for number in range(5)]


def outcome(id_: str, correct: int, of: int = 8, shortest: int = 100) -> Outcome:
    return Outcome(id_, of, correct, shortest if correct else None)


def random_run(history: PromptHistory, *, seed: int, first: int, last: int) -> list[dict[str, torch.Tensor]]:
    """Steps of three random prompts each; what a step draws depends on its number alone."""
    columns = []
    for step in range(first, last + 1):
        rng = random.Random(f"{seed} {step}")
        asked = rng.sample(IDS, 3)
        history.commit(step, [outcome(id_, rng.randint(0, 8), shortest=rng.randint(1, 99)) for id_ in asked])
        columns.append(history.columns(step, asked))
    return columns


def test_accuracy_rises_and_falls_with_its_own_weights() -> None:
    history = PromptHistory(History(), IDS)
    rows = []
    for step, correct in enumerate((4, 4, 2, 8), 1):
        history.commit(step, [outcome("p0", correct)])
        rows.append(history.columns(step, ["p0"])["accuracy_after"].item())
    # 0.2 x 0.5; 0.8 x 0.1 + 0.2 x 0.5; 0.8 x 0.18 + 0.2 x 0.25; 0.8 x 0.194 + 0.2
    assert rows == pytest.approx([0.1, 0.18, 0.194, 0.3552], abs=1e-15)


def test_falling_accuracy_is_weighed_with_down() -> None:
    history = PromptHistory(History(start="prior", prior=0.8), IDS)
    history.commit(1, [outcome("p0", 2)])
    columns = history.columns(1, ["p0"])
    assert columns["accuracy_before"].item() == 0.8
    assert columns["accuracy_after"].item() == pytest.approx(0.95 * 0.8 + 0.05 * 0.25, abs=1e-15)
    assert columns["mean_before"].item() == pytest.approx(0.8, abs=1e-15)


def test_a_first_observation_is_its_own_past() -> None:
    history = PromptHistory(History(start="first"), IDS)
    history.commit(1, [outcome("p0", 6), outcome("p1", 0)])
    columns = history.columns(1, ["p0", "p1"])
    for name in ("accuracy_before", "accuracy_now", "accuracy_after"):
        assert columns[name].tolist() == [0.75, 0.0]
    assert columns["mean_before"].tolist() == [0.0, 0.0]
    assert columns["mean_after"].tolist() == [0.15, 0.15]
    assert columns["visited_mean_after"].tolist() == [0.375, 0.375]


def test_means_are_over_the_table_and_over_what_was_visited() -> None:
    history = PromptHistory(History(), IDS)
    history.commit(1, [outcome("p0", 8)])
    history.commit(2, [outcome("p1", 4)])
    columns = history.columns(2, ["p1"])
    assert {name: columns[name].item() for name in columns if "mean" in name} == pytest.approx(
        {
            "mean_before": 0.2 / 5,
            "mean_after": 0.3 / 5,
            "visited_mean_before": 0.2,
            "visited_mean_after": 0.15,
        },
        abs=1e-15,
    )


@pytest.mark.parametrize("accuracy", [0.1, 0.3, 0.7])
def test_equal_prompts_are_never_below_their_mean(accuracy: float) -> None:
    for number in range(1, 40):
        history = PromptHistory(History(start="prior", prior=accuracy, up=0.0, down=0.0), _ids(number))
        history.commit(1, [outcome("0", 3)])
        columns = history.columns(1, ["0"])
        assert columns["mean_after"].item() == columns["accuracy_after"].item()


def _ids(number: int) -> list[str]:
    return [str(place) for place in range(number)]


def test_the_shortest_correct_length_only_falls_and_is_read_before_the_step() -> None:
    history = PromptHistory(History(), IDS)
    seen = []
    for step, (correct, shortest) in enumerate([(0, 0), (1, 40), (2, 60), (0, 0), (1, 30), (1, 50)], 1):
        history.commit(step, [outcome("p0", correct, shortest=shortest)])
        seen.append(history.columns(step, ["p0"])["shortest_before"].item())
    assert seen == [torch.inf, torch.inf, 40.0, 40.0, 40.0, 30.0]


def test_a_commit_can_be_repeated_split_and_reordered() -> None:
    outcomes = [outcome("p0", 8), outcome("p1", 3), outcome("p2", 0)]
    once, often = PromptHistory(History(), IDS), PromptHistory(History(), IDS)
    once.commit(1, outcomes)
    often.commit(1, [outcomes[2]])
    often.commit(1, outcomes[::-1])
    often.commit(1, [outcome("p0", 1)])  # of two in a step the first counts
    one, other = once.columns(1, IDS[:3]), often.columns(1, IDS[:3])
    assert one.keys() == other.keys()
    for name, column in one.items():
        assert torch.equal(column, other[name]), name


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("start", ["zero", "first", "prior"])
def test_a_restart_goes_on_to_the_bit(seed: int, start: str) -> None:
    rules = History(start=start, prior=0.3)
    whole = random_run(PromptHistory(rules, IDS), seed=seed, first=1, last=8)
    begun = PromptHistory(rules, IDS)
    random_run(begun, seed=seed, first=1, last=4)
    resumed = PromptHistory(rules, IDS[::-1])  # the same prompts, read in another order
    resumed.load_state(json.loads(json.dumps(begun.state())))
    for step, columns in enumerate(random_run(resumed, seed=seed, first=5, last=8), 5):
        for name, column in columns.items():
            assert torch.equal(column, whole[step - 1][name]), (step, name)


def test_a_state_taken_inside_a_step_does_not_take_it_in_twice() -> None:
    history = PromptHistory(History(), IDS)
    history.commit(1, [outcome("p0", 8, shortest=7)])
    resumed = PromptHistory(History(), IDS)
    resumed.load_state(json.loads(json.dumps(history.state())))
    resumed.commit(1, [outcome("p0", 8, shortest=7), outcome("p1", 0)])
    columns = resumed.columns(1, ["p0"])
    assert columns["accuracy_after"].item() == pytest.approx(0.2, abs=1e-15)
    assert columns["accuracy_before"].item() == 0.0
    assert columns["shortest_before"].item() == torch.inf


def test_no_prompts_make_empty_columns() -> None:
    columns = PromptHistory(History(), IDS).columns(1, [])
    assert {column.shape for column in columns.values()} == {torch.Size([0])}


def test_outcomes_can_be_sent_between_processes() -> None:
    assert pickle.loads(pickle.dumps(outcome("p0", 3))) == outcome("p0", 3)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    history = PromptHistory(History(), IDS)
    history.commit(3, [outcome("p0", 8)])
    before = history.state()
    with pytest.raises(ValueError, match=r"'other' is not in the history.*5 training prompts"):
        history.commit(4, [outcome("p1", 8), outcome("other", 8)])
    with pytest.raises(ValueError, match=r"step 2 came after those of step 3"):
        history.commit(2, [outcome("p1", 8)])
    with pytest.raises(ValueError, match=r"no outcome of prompt 'p1' at step 3; commit"):
        history.columns(3, ["p0", "p1"])
    with pytest.raises(ValueError, match=r"no outcome of prompt 'p0' at step 4"):
        history.columns(4, ["p0"])
    assert history.state() == before


def test_a_foreign_state_is_refused() -> None:
    history = PromptHistory(History(), IDS)
    with pytest.raises(ValueError, match=r"version 7 and this program reads\s+1"):
        history.load_state({**history.state(), "version": 7})
    with pytest.raises(ValueError, match=r"'p4', for one, is in only one of them.*same data"):
        history.load_state(PromptHistory(History(), IDS[:4]).state())


@pytest.mark.parametrize(
    ("rules", "match"),
    [
        (History(start="last"), "zero, first, prior"),
        (History(up=1.0), "up must"),
        (History(down=-0.1), "down"),
    ],
)
def test_rules_are_checked(rules: History, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        PromptHistory(rules, IDS)


def test_ids_must_differ_and_outcomes_must_add_up() -> None:
    with pytest.raises(ValueError, match="ids must differ"):
        PromptHistory(History(), ["p0", "p0"])
    with pytest.raises(ValueError, match="9 correct responses of 8; expected"):
        Outcome("p0", 8, 9, 3)
    with pytest.raises(ValueError, match="give a length exactly when"):
        Outcome("p0", 8, 1, None)
