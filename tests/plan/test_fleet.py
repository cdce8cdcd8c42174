"""A simulated fleet against a simulation of another kind, and against closed forms."""

from __future__ import annotations

from random import Random

import pytest
from support.token_by_token import PROMPT, drawn, taken_at, token_s

from megaent.errors import ConfigError
from megaent.plan.fleet import Failures, Fleet, ObservedLengths, simulate
from megaent.plan.lengths import Lengths
from megaent.plan.question import read_question
from megaent.plan.search import Search
from megaent.plan.simulated import fleet_of

LENGTHS = Lengths(mean=1500.0, longest=8192, spread=0.8)
SAME = ObservedLengths((100,))


def fleet(**changes: object) -> Fleet:
    plain: dict = {
        "engines": 1, "room": 10_000, "token_s": lambda responses, context: 0.01, "lengths": SAME,
        "prompts": 4, "group": 8, "prompt_tokens": 10, "train_s": 0.5, "publish_s": 0.25,
    }  # fmt: skip
    return Fleet(**(plain | changes))


class Replayed:
    """The lengths that the simulation token by token draws, batch after batch."""

    def __init__(self, requests: int, batches: int) -> None:
        self._tokens = [int(n) for step in range(batches) for n in drawn(LENGTHS, requests, step)][::-1]

    def draw(self, random: Random) -> int:
        return self._tokens.pop()


@pytest.mark.parametrize(("depth", "train_s"), [(2, 1.0), (4, 1.0), (8, 1.0), (2, 60.0), (4, 60.0)])
def test_it_agrees_with_a_simulation_token_by_token(depth: int, train_s: float) -> None:
    asked = fleet(
        token_s=token_s, lengths=Replayed(32, 400), prompt_tokens=PROMPT, train_s=train_s, publish_s=0.0,
        staleness=depth,
    )  # fmt: skip
    first = 2 * (depth + 1)
    times = taken_at(depth, train_s, requests=32, lengths=LENGTHS, steps=first + 160)
    truth = (times[first + 159] - times[first - 1]) / 160
    assert simulate(asked, steps=160).seconds == pytest.approx(truth, rel=0.01)


def test_one_after_another_takes_the_sum_of_its_parts() -> None:
    found = simulate(fleet(), steps=5)
    assert found.seconds == pytest.approx(1.0 + 0.5 + 0.25)
    assert found.parts == pytest.approx(
        {"full engines": 1.0, "slowest responses": 0.0, "training": 0.5, "publication": 0.25}
    )
    assert found.busy == pytest.approx(1.0 / 1.75)
    assert found.responses == pytest.approx(32)


def test_a_batch_ahead_hides_the_shorter_of_generation_and_training() -> None:
    assert simulate(fleet(staleness=1), steps=5).seconds == pytest.approx(1.0)
    assert simulate(fleet(staleness=1, train_s=3.0), steps=5).seconds == pytest.approx(3.25)


def test_engines_that_drain_hold_up_the_publication() -> None:
    found = simulate(fleet(staleness=1, drains=True), steps=5)
    assert found.seconds == pytest.approx(1.0 + 0.25)
    assert found.parts["publication"] == pytest.approx(0.5 + 0.25)


def test_what_has_no_room_waits_for_what_ends() -> None:
    found = simulate(fleet(room=8), steps=3)
    assert found.seconds == pytest.approx(4 * 1.0 + 0.75)
    assert found.responses == pytest.approx(8)


def test_groups_go_to_the_engine_with_least_to_do() -> None:
    slower = {"token_s": lambda responses, context: 0.001 * responses}
    assert simulate(fleet(**slower), steps=3).parts["full engines"] == pytest.approx(3.2)
    assert simulate(fleet(engines=4, **slower), steps=3).parts["full engines"] == pytest.approx(0.8)


def test_longer_contexts_are_read_slower() -> None:
    # Tokens 0 … 99 after a prompt of 10: contexts of 60 in the mean.
    found = simulate(fleet(token_s=lambda responses, context: 1e-4 * context), steps=3)
    assert found.parts["full engines"] == pytest.approx(100 * 1e-4 * 60)


def test_a_tenth_of_a_batch_is_its_slowest() -> None:
    mixed = ObservedLengths((10,) * 19 + (400,))
    found = simulate(fleet(lengths=mixed, prompts=50), steps=20)
    assert found.parts["full engines"] == pytest.approx(0.1)
    assert found.parts["slowest responses"] == pytest.approx(3.9)
    assert found.limit == "slowest responses"


def test_failures_cost_what_was_not_saved() -> None:
    """A trainer's alone: rate L, c seconds between checkpoints, restart r; memoryless, so the mean time
    between two checkpoints is (1/L + r)(exp(L c) - 1)."""
    hour = 3600.0
    failures = Failures(per_card_hour=36.0, engine_cards=0, restart_s=5.0, checkpoint_every=20)
    found = simulate(fleet(failures=failures), steps=20_000)
    rate, between = 36.0 / hour, 20 * 1.75
    expected = (1 / rate + 5.0) * (2.718281828459045 ** (rate * between) - 1) / 20
    assert found.seconds == pytest.approx(expected, rel=0.03)
    assert found.failures > 100
    assert sum(found.parts.values()) == pytest.approx(found.seconds)


def test_a_lost_engine_begins_its_responses_again_on_others() -> None:
    failures = Failures(per_card_hour=360.0, trainer_cards=0, restart_s=0.0)
    found = simulate(fleet(failures=failures, train_s=0.0, publish_s=0.0), steps=20_000)
    # Every response takes one second without failure; begun anew until that happens: (exp(L) - 1)/L.
    assert found.seconds == pytest.approx((2.718281828459045**0.1 - 1) / 0.1, rel=0.02)


def test_the_same_seed_is_the_same_run() -> None:
    asked = fleet(lengths=LENGTHS, engines=3, staleness=2, failures=Failures(per_card_hour=20.0))
    assert simulate(asked, steps=30, seed=4) == simulate(asked, steps=30, seed=4)
    assert simulate(asked, steps=30, seed=4) != simulate(asked, steps=30, seed=5)


def test_drawn_lengths_have_the_mean_and_the_limit_that_were_asked() -> None:
    drawn = [LENGTHS.draw(random) for random in [Random(0)] for _ in range(40_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(1500, rel=0.02)
    assert max(drawn) == 8192


@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
def test_a_plan_takes_as_long_as_its_fleet_where_one_limit_is_alone(staleness: int) -> None:
    words = ["model=qwen2_5_7b", "cluster=h100", "nodes=8", f"staleness={staleness}"]
    search = Search(read_question(words))
    best = search.run().candidates[0]
    found = simulate(fleet_of(search, best), steps=40)
    assert best.step is not None
    assert found.seconds == pytest.approx(best.seconds, rel=0.05)
    assert found.parts["training"] == best.step.trained.total


def test_an_empty_fleet_is_refused() -> None:
    with pytest.raises(ConfigError, match="engines, room, prompts and responses of 1 or more"):
        fleet(engines=0)
