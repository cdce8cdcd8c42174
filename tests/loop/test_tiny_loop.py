"""The whole loop without Megatron or a model: FakeEngine draws, TinyActor learns."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence

import pytest
import torch
from support.tiny_loop import VOCAB, WANTED, Judge, make_trainer

from megaent.errors import NumericsError
from megaent.evaluation.sampled import evaluate
from megaent.loop.trainer import Trainer


def probability_of_wanted(trainer: Trainer) -> float:
    logits = dict(trainer.actor.named_weights())["bigram.weight"]
    return float(torch.softmax(logits, dim=-1)[:, WANTED].mean())


def test_the_policy_comes_to_prefer_what_is_rewarded() -> None:
    trainer = make_trainer()
    before = probability_of_wanted(trainer)
    for step in range(1, 31):
        trainer.step(step)
    assert probability_of_wanted(trainer) > 2 * before


def test_what_a_step_reports_is_what_happened() -> None:
    report = make_trainer().step(1)
    metrics = report.metrics
    rewards = [grade.reward for group in report.groups for grade in group.grades]
    tokens = [token for group in report.groups for response in group.responses for token in response.tokens]
    assert metrics["reward/mean"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-12)
    assert metrics["tokens/response"] == len(tokens)
    # The engine draws uniformly, and says so.
    engine = [value for group in report.groups for response in group.responses for value in response.log_prob]
    assert engine == pytest.approx([-math.log(VOCAB)] * len(tokens), abs=1e-6)
    assert trainer_version(report) == 1.0
    assert all(math.isfinite(value) for value in metrics.values())


def trainer_version(report: object) -> float:
    return report.metrics["version"]  # type: ignore[attr-defined]


def test_published_weights_carry_the_step_as_their_version() -> None:
    trainer = make_trainer()
    trainer.step(1)
    trainer.step(2)
    engine = trainer.collector.generation.engine
    assert engine is not None
    assert engine.version == 2


def test_steps_depend_on_their_number_alone() -> None:
    first, second = make_trainer(), make_trainer()
    first.step(1)
    second.collector.generate(5)
    assert drawn(first, 2) == drawn(second, 2)
    assert drawn(first, 2) != drawn(first, 3)


def drawn(trainer: Trainer, step: int) -> list[tuple[int, ...]]:
    return [response.tokens for group in trainer.collector.generate(step) for response in group.responses]


def test_equal_runs_are_equal_to_the_bit() -> None:
    runs = [make_trainer(), make_trainer()]
    for trainer in runs:
        for step in range(1, 4):
            trainer.step(step)
    left, right = (dict(trainer.actor.named_weights())["bigram.weight"] for trainer in runs)
    assert torch.equal(left, right)


def test_a_mismatch_over_the_limit_stops_the_run() -> None:
    trainer = make_trainer(mismatch_limit=1e-6)
    with pytest.raises(NumericsError, match="engine and trainer disagree"):
        trainer.step(1)


def test_evaluation_is_the_same_whenever_it_is_asked() -> None:
    trainer = make_trainer()
    prompts = trainer.collector.task.evaluation
    options = {"group_size": 8, "sampling": trainer.collector.generation.sampling, "seed": 3}
    first = evaluate(trainer, prompts, **options)
    assert first == evaluate(trainer, prompts, **options)
    assert first["all"].num_prompts == 4


def test_the_loop_needs_no_megatron() -> None:
    import subprocess

    code = (
        "import sys\nsys.modules['megatron'] = None\n"
        "import megaent.loop.trainer, megaent.actor.tiny_actor, megaent.rollout.fake\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("wanted", "accuracy"), [(lambda tokens: True, 1.0), (lambda tokens: False, 0.0)])
def test_accuracy_is_of_all_that_was_drawn_also_where_nothing_is_kept(
    wanted: Callable[[Sequence[int]], bool], accuracy: float
) -> None:
    trainer = make_trainer(method={"dapo": {"max_batches": 2}}, reward=Judge(wanted))
    metrics = trainer.step(1).metrics
    assert metrics["accuracy/mean"] == accuracy
    assert metrics["accuracy/solved_all"] == accuracy
    assert metrics["accuracy/solved_none"] == 1 - accuracy
    assert metrics["kept/accuracy_mean"] == metrics["kept/length_mean"] == 0.0, "nothing was kept"
    assert metrics["length/mean"] > 0


def test_what_is_kept_has_numbers_of_its_own() -> None:
    trainer = make_trainer(method={"dapo": {"max_batches": 3}}, reward=Judge(lambda t: t[0] < 6))
    report = trainer.step(1)
    drawn = trainer.collector.reward
    assert isinstance(drawn, Judge)
    correct = [grade.correct for group in drawn.seen for grade in group.grades]
    kept = [grade.correct for group in report.groups for grade in group.grades]
    assert 0 < len(kept) < len(correct)
    assert report.metrics["accuracy/mean"] == pytest.approx(sum(correct) / len(correct))
    assert report.metrics["kept/accuracy_mean"] == pytest.approx(sum(kept) / len(kept))
    assert report.metrics["kept/accuracy_solved_all"] == report.metrics["kept/accuracy_solved_none"] == 0.0
