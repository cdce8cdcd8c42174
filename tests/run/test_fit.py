"""What does not fit is refused at the start, by the key that is to blame."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megaent.config.composition import compose_config
from megaent.data.task import Task
from megaent.errors import ConfigError, DataError
from megaent.methods import build_method
from megaent.run.fit import check_fit, longest_answer
from megaent.types import Prompt


def task(*, prompts: int = 32, held_out: int = 4, tokens: int = 10) -> Task:
    made = [Prompt(id=f"p{i}", tokens=(1,) * tokens, text="", answer="1") for i in range(prompts + held_out)]
    return Task(
        train=tuple(made[:prompts]),
        evaluation=tuple(made[prompts:]),
        grader="math",
        stop_token_ids=(),
        decode=str,
    )


def check(given: Task, *words: str, longest: int = 8) -> None:
    config, _ = compose_config(["experiment=demo", "evaluate.at_start=false", *words])
    check_fit(config, given, longest=longest)


def test_a_run_that_fits_is_left_alone() -> None:
    check(task(), "parallel.microbatch_tokens=17", "rollout.prompts_per_step=16")


def test_a_pack_must_hold_the_longest_prompt_with_an_answer() -> None:
    with pytest.raises(ConfigError, match=r"parallel\.microbatch_tokens=16 cannot .* raise it to 17"):
        check(task(), "parallel.microbatch_tokens=16")


@pytest.mark.parametrize("word", ["evaluate.every=3", "evaluate.at_start=true"])
def test_an_evaluation_needs_held_out_prompts(word: str) -> None:
    key = word.partition("=")[0]
    with pytest.raises(DataError, match=rf"{key} asks for evaluations and no prompt is held out"):
        check(task(held_out=0), word)
    check(task(held_out=0))


@pytest.mark.parametrize(("prompts", "fits"), [(64, True), (32, True), (30, False), (48, False)])
def test_every_stage_needs_prompts_for_a_step(prompts: int, fits: bool) -> None:
    words = ("method=sent", "rollout.prompts_per_step=16")
    if fits:
        check(task(prompts=prompts), *words)
        return
    with pytest.raises(ConfigError, match=f"2 stages of {prompts} training prompts have"):
        check(task(prompts=prompts), *words)


def test_the_longest_answer_is_that_of_the_longest_phase() -> None:
    egrc = build_method({"egrc": {"max_length": 12, "explore_max_new_tokens": 20}})
    assert longest_answer(egrc, 96, context=256) == 20
    assert longest_answer(build_method({"grpo": {}}), 96, context=256) == 96


def test_a_method_s_own_length_is_blamed_on_the_method() -> None:
    with pytest.raises(ConfigError, match=r"the method's own length of its phase .*=8192 .* context of 256"):
        longest_answer(build_method({"egrc": {"max_length": 4096}}), 96, context=256)
    with pytest.raises(ConfigError, match=r"^rollout\.max_new_tokens=256 must leave room"):
        longest_answer(build_method({"grpo": {}}), 256, context=256)


def test_the_phase_that_asks_for_most_is_the_one_named() -> None:
    schedule = build_method({"egrc": {"max_length": 12, "explore_max_new_tokens": 300}})
    longest = max(schedule.phases, key=lambda phase: phase.max_new_tokens or 0)
    with pytest.raises(ConfigError, match=f"phase {longest.name!r}"):
        longest_answer(replace(schedule), 96, context=256)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method=sent"], "the method's own curriculum both choose"),
        (["rollout.staleness=1"], "set it to 0"),
        (
            ["rollout.prompts_per_step=33", "optim.minibatches=1"],
            "up to 33 different prompts a step, and there are 32",
        ),
        (["rollout.group_size=1", "data.curriculum.by=semantic_entropy"], "needs answers to compare"),
    ],
)
def test_what_a_curriculum_cannot_draw_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(task(prompts=32), "data.curriculum.by=accuracy", *words)
    check(task(prompts=32), "data.curriculum.by=accuracy", "rollout.prompts_per_step=16")
