"""CEEH's pieces and the entropy advantage, against the equations written out response by response."""

from __future__ import annotations

import math
import random

import pytest
import torch
from support.golden_inputs import experience, seen, tokens

from megaent.objective.difficulty import EntropyByDifficulty, HardPrompts, RecordLength
from megaent.objective.entropy_advantage import EntropyAdvantage
from megaent.objective.history import STARTS, Outcome, PromptHistory
from megaent.objective.method import History


def random_case(rng: random.Random, num_groups: int = 4):
    sizes = [rng.randint(1, 5) for _ in range(num_groups)]
    owners = [number for number, size in enumerate(sizes) for _ in range(size)]
    lengths = [rng.randint(1, 30) for _ in owners]
    correct = [rng.randint(0, 1) for _ in owners]
    columns = {
        "accuracy_before": [rng.random() for _ in sizes],
        "accuracy_now": [rng.random() for _ in sizes],
        "shortest_before": [rng.choice([math.inf, float(rng.randint(1, 30))]) for _ in sizes],
        "accuracy_after": [rng.random() for _ in sizes],
        "mean_after": [0.5] * num_groups,
    }
    return owners, lengths, correct, columns


@pytest.mark.parametrize("seed", range(20))
def test_record_length_is_equations_12_to_14(seed: int) -> None:
    rng = random.Random(seed)
    owners, lengths, correct, columns = random_case(rng)
    beta, floor = rng.choice([0.1, 0.5, 3.0]), rng.choice([-0.9, -0.2])
    batch = experience(lengths, correct, owners, history=columns)
    expected = []
    for owner, length, right in zip(owners, lengths, correct, strict=True):
        record = columns["shortest_before"][owner]
        if math.isinf(record):
            siblings = zip(owners, lengths, correct, strict=True)
            record = min((n for o, n, c in siblings if o == owner and c), default=math.inf)
        improves = columns["accuracy_now"][owner] > columns["accuracy_before"][owner]
        term = max(-beta * (length - record) / record, floor) if right and improves else 0.0
        expected.append(right + term)
    reward_S = RecordLength(beta=beta, floor=floor)(batch.reward, seen(batch))
    assert reward_S.tolist() == pytest.approx(expected, abs=1e-12)
    if floor == -0.9:
        assert bool((reward_S[batch.correct] >= 0.1 - 1e-12).all())


def test_the_gate_is_the_same_before_and_after_the_step() -> None:
    """Acc > Acc_h before the update exactly when after it, for every eta below 1."""
    rng = random.Random(0)
    for _ in range(300):
        rules = History(start="prior", prior=rng.random(), up=0.9 * rng.random(), down=0.9 * rng.random())
        history = PromptHistory(rules, ["x"])
        number = rng.randint(0, 16)
        history.commit(1, [Outcome("x", 16, number, 5 if number else None)])
        columns = history.columns(1, ["x"])
        now = columns["accuracy_now"]
        assert bool(now > columns["accuracy_before"]) == bool(now > columns["accuracy_after"])


@pytest.mark.parametrize("start", STARTS)
def test_on_a_first_visit_only_a_start_below_the_outcome_opens_the_gate(start: str) -> None:
    history = PromptHistory(History(start=start, prior=0.6), ["x"])
    history.commit(1, [Outcome("x", 2, 1, 10)])
    batch = experience([10, 30], [1, 0], history=history.columns(1, ["x"]))
    batch.correct[:] = True
    reward_S = RecordLength(beta=0.1)(torch.ones(2, dtype=torch.float64), seen(batch))
    assert reward_S.tolist() == pytest.approx([1.0, 0.8 if start == "zero" else 1.0])


@pytest.mark.parametrize("flags", ["after", "before"])
@pytest.mark.parametrize("mean", ["table", "visited"])
def test_hard_is_strictly_below_the_chosen_mean(flags: str, mean: str) -> None:
    columns = {}
    for number, name in enumerate(("before", "after")):
        columns[f"accuracy_{name}"] = [0.1 + number, 0.2 + number, 0.3 + number]
        columns[f"mean_{name}"] = [0.2 + number] * 3
        columns[f"visited_mean_{name}"] = [0.3 + number] * 3
    batch = experience([1, 1, 1], groups=[0, 1, 2], history=columns)
    whole = seen(batch)
    is_hard_P = HardPrompts(flags=flags, mean=mean)(whole)
    assert is_hard_P.tolist() == ([True, False, False] if mean == "table" else [True, True, False])
    share = whole.notes.reduce(whole.population)["ceeh/hard_share"]
    assert share == pytest.approx((1 if mean == "table" else 2) / 3)


def test_without_a_history_the_message_says_what_to_fill() -> None:
    batch = experience([2], history={"accuracy_now": [1.0]})
    with pytest.raises(ValueError, match=r"'accuracy_before' and the batch carries accuracy_now; fill"):
        RecordLength()(batch.reward, seen(batch))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("half", [1, 0.75, 0.5, 0.25, 0]), ("literal", [1, 0.5, 0, -0.5, -1]), ("clamped", [1, 0.5, 0, 0, 0])],
)
def test_the_entropy_coefficient_falls_over_the_run(schedule: str, shares: list[float]) -> None:
    batch = experience([2, 1], groups=[0, 1], history={"accuracy_after": [0.9, 0.1], "mean_after": [0.5] * 2})
    rule = EntropyByDifficulty(start=0.01, hard_mult=4.0, schedule=schedule)
    for progress, share in zip([0, 1 / 3, 1 / 2, 2 / 3, 1], shares, strict=True):
        coefs = rule(tokens(batch), seen(batch, progress=progress)).tolist()
        assert coefs == pytest.approx([0.01 * share, 0.01 * share, 0.04 * share], abs=1e-15)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("where", [None, HardPrompts()])
def test_the_entropy_advantage_never_turns_an_advantage(seed: int, where: HardPrompts | None) -> None:
    rng = random.Random(seed)
    owners, lengths, correct, columns = random_case(rng)
    entropy = [4 * rng.random() for _ in range(sum(lengths))]
    batch = experience(lengths, correct, owners, entropy=entropy, history=columns)
    advantage_T = torch.tensor([rng.choice([0.0, rng.gauss(0, 1)]) for _ in entropy], dtype=torch.float64)
    shaped_T = EntropyAdvantage(alpha=0.4, kappa=2.0, where=where)(advantage_T, seen(batch))
    assert torch.equal(shaped_T.sign(), advantage_T.sign())
    hard = [after < 0.5 for after in columns["accuracy_after"]]
    for place, (old, new) in enumerate(zip(advantage_T.tolist(), shaped_T.tolist(), strict=True)):
        applies = where is None or hard[owners[int(batch.owner[place])]]
        expected = old + min(0.4 * entropy[place], abs(old) / 2.0) if applies else old
        assert new == pytest.approx(expected, abs=1e-15)


def test_the_entropy_advantage_keeps_the_type() -> None:
    batch = experience([3], entropy=[0.1, 0.2, 0.3])
    assert EntropyAdvantage()(torch.ones(3, dtype=torch.float32), seen(batch)).dtype == torch.float32


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: RecordLength(beta=-1.0), "beta must be 0 or more"),
        (lambda: RecordLength(floor=0.5), "floor must be 0 or less"),
        (lambda: HardPrompts(flags="now"), "flags must be after or before"),
        (lambda: HardPrompts(mean="all"), "mean must be table or visited"),
        (lambda: EntropyByDifficulty(schedule="linear"), "half, literal, clamped"),
        (lambda: EntropyAdvantage(kappa=1.0), "kappa must be above 1"),
        (lambda: EntropyAdvantage(alpha=-0.1), "alpha must be 0 or more"),
    ],
)
def test_bad_options_are_refused_by_name(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()
