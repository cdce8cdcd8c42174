"""How the pieces of several papers become one method, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megaent.objective.advantages import GroupRelative, LeaveOneOut
from megaent.objective.aggregations import ResponseMean, TokenMean
from megaent.objective.compose import Part, PhasePart, compose
from megaent.objective.controllers import AdaptiveEntropy
from megaent.objective.cores import Clipped, Unclipped
from megaent.objective.length_rewards import Cosine, LinearLength, SigmoidLength
from megaent.objective.method import DynamicSampling, Phase, Schedule, Term
from megaent.objective.terms import Constant, NucleusEntropy, entropy_bonus, kl_to_reference
from megaent.objective.weights import EngineMismatch, HighEntropyOnly

BASE = Part(advantage=GroupRelative(), core=Clipped(), aggregation=TokenMean())
LINEAR = LinearLength(coef=0.1, max_length=10)


def method_of(**parts: Part):
    (phase,) = compose(parts, base=BASE).phases
    return phase.method


def test_what_nobody_sets_comes_from_the_base() -> None:
    method = method_of(one=Part())
    assert (method.advantage, method.loss.core, method.aggregation) == (
        GroupRelative(),
        Clipped(),
        TokenMean(),
    )
    assert method.sampling is None
    assert not method.needs_reference
    assert method.group_relative


def test_who_insists_wins_over_who_suggests_and_the_first_suggestion_over_the_second() -> None:
    first = Part(suggests=Part(advantage=LeaveOneOut(), core=Unclipped(), sampling=DynamicSampling()))
    second = Part(suggests=Part(core=Clipped(high=0.5), aggregation=ResponseMean()))
    method = method_of(first=first, second=second)
    assert method.advantage == LeaveOneOut()
    assert method.loss.core == Unclipped()
    assert method.aggregation == ResponseMean()
    assert method.sampling == DynamicSampling()
    assert method_of(second=second, first=first).loss.core == Clipped(high=0.5)
    assert method_of(first=first, third=Part(core=Clipped(dual=None))).loss.core == Clipped(dual=None)
    strict = Part(sampling=DynamicSampling(max_batches=3))
    assert method_of(first=first, third=strict).sampling == DynamicSampling(max_batches=3)


def test_lists_are_joined_in_the_order_of_the_parts() -> None:
    one = Part(weights=(HighEntropyOnly(),), terms=entropy_bonus(0.1), rewards=(LINEAR,))
    two = Part(weights=(EngineMismatch(),), terms=kl_to_reference(0.2), rewards=(SigmoidLength(),))
    method = method_of(one=one, two=two)
    assert method.loss.weights == (HighEntropyOnly(), EngineMismatch())
    assert [term.name for term in method.loss.terms] == ["entropy_bonus", "kl_to_ref"]
    assert method.rewards == (SigmoidLength(), LINEAR), "a reward from scratch comes first"
    assert method.needs_reference
    assert not method.group_relative, "lengths and terms teach where rewards are equal"


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        (Part(core=Clipped()), Part(core=Unclipped()), "both set the core"),
        (Part(advantage=GroupRelative()), Part(advantage=LeaveOneOut()), "both set the advantage"),
        (Part(terms=entropy_bonus(0.1)), Part(terms=entropy_bonus(0.1)), "both bring a loss term named"),
        (
            Part(rewards=(SigmoidLength(),)),
            Part(rewards=(Cosine(max_length=9),)),
            "both bring the reward of a response from scratch",
        ),
        (
            Part(controllers=(AdaptiveEntropy(),)),
            Part(controllers=(AdaptiveEntropy(target=0.3),)),
            "both bring a controller named 'adaptive_entropy'",
        ),
        (Part(weights=(EngineMismatch(),)), Part(weights=(EngineMismatch(),)), "a weight of the policy term"),
    ],
)
def test_two_parts_that_want_one_place_are_refused_by_name(one: Part, two: Part, said: str) -> None:
    with pytest.raises(ValueError, match=f"red and blue cannot be combined: .*{said}"):
        compose({"red": one, "blue": two}, base=BASE)


def test_equal_demands_agree() -> None:
    assert method_of(one=Part(core=Unclipped()), two=Part(core=Unclipped())).loss.core == Unclipped()


# ---------------------------------------------------------------- phases


def phased() -> Schedule:
    early = PhasePart(name="early", until=0.5, part=Part(terms=entropy_bonus(0.1)), temperature=0.6)
    late = PhasePart(name="late", part=Part(core=Unclipped()), reset_optimizer=True)
    always = Part(weights=(HighEntropyOnly(),), phases=(early, late))
    return compose({"staged": always, "other": Part(rewards=(LINEAR,))}, base=BASE)


def test_a_phase_adds_to_what_holds_all_the_time() -> None:
    early, late = phased().phases
    assert isinstance(early, Phase)
    assert (early.name, early.until, early.temperature) == ("early", 0.5, 0.6)
    assert (late.name, late.reset_optimizer, late.temperature) == ("late", True, None)
    assert [term.name for term in early.method.loss.terms] == ["entropy_bonus"]
    assert late.method.loss.terms == ()
    assert (early.method.loss.core, late.method.loss.core) == (Clipped(), Unclipped())
    for phase in (early, late):
        assert phase.method.loss.weights == (HighEntropyOnly(),)
        assert phase.method.rewards == (LINEAR,)


def test_the_phase_of_a_step() -> None:
    schedule = phased()
    assert [schedule.number_at(step, 4) for step in (1, 2, 3, 4)] == [0, 0, 1, 1]
    assert schedule.number_at(1, 1) == 1, "half of one step rounds to none"


@pytest.mark.parametrize("num_steps", [1, 2, 7, 10])
def test_steps_of_a_stage_are_those_that_take_one_batch_of_it(num_steps: int) -> None:
    plain = method_of(one=Part())
    sampling = replace(plain, sampling=DynamicSampling())
    kinds = [(0.3, 0, plain), (0.5, 1, plain), (0.6, 1, sampling), (0.6, 2, plain), (1.0, 0, plain)]
    schedule = Schedule(
        phases=tuple(
            Phase(method=method, name=f"part {n}", until=until, stage=stage)
            for n, (until, stage, method) in enumerate(kinds)
        )
    )
    last = num_steps + 3  # a finished run may be asked for one more
    for after in range(last):
        for before in range(after + 1, last + 1):
            phases = [schedule.phases[schedule.number_at(s, num_steps)] for s in range(after + 1, before)]
            for stage in (0, 1, 2):
                expected = sum(p.stage == stage and p.method.sampling is None for p in phases)
                found = schedule.steps_of_stage(stage, after=after, before=before, num_steps=num_steps)
                assert found == expected, (after, before, stage)


def test_words_have_a_line_for_every_piece() -> None:
    method = method_of(
        one=Part(
            rewards=(LINEAR,), weights=(HighEntropyOnly(),), controllers=(AdaptiveEntropy(),),
            terms=kl_to_reference(0.25), sampling=DynamicSampling(max_batches=3),
        )
    )  # fmt: skip
    lines = method.words()
    assert [line.split(":")[0] for line in lines] == [
        "reward", "advantage", "policy term", "weight of the policy term", "added to the loss", "mean over",
        "around the step", "around the step",
    ]  # fmt: skip
    for number in ("0.1", "10", "0.2", "0.25", "up to 3"):
        assert any(number in line for line in lines), number
    assert all(line.startswith(("[early]", "[late]")) for line in phased().words())


def test_terms_over_two_nuclei_are_refused() -> None:
    def over(p: float) -> Part:
        return Part(terms=(Term(name=f"over {p}", quantity=NucleusEntropy(p=p), coef=Constant(coef=1.0)),))

    both = {"one": over(0.8), "other": over(0.9)}
    with pytest.raises(ValueError, match=r"one nucleus, asked were one of 0\.8, other of 0\.9"):
        compose(both, base=BASE)
    (phase,) = compose({"one": over(0.8), "other": replace(over(0.8), terms=())}, base=BASE).phases
    assert phase.method.loss.nucleus_p == 0.8
