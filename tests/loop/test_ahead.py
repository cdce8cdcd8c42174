"""Generation that runs ahead: which weights draw what, that it overlaps, and that a kill loses nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch
from support.runs import DEMO, Program, checkpoint, largest_difference, repeatable, saved_state
from support.tiny_loop import VOCAB, make_trainer

from megaent.errors import CheckpointError, EngineError
from megaent.loop.ahead import Ahead, read_drawn, write_drawn
from megaent.randomness import uniform
from megaent.types import Group, Metrics, Prompt, Response, RolloutRequest, SamplingParams


class BigramEngine:
    """Draws from the bigram table that it was given, and remembers every table by its version."""

    takes_weights_while_generating = False

    def __init__(self) -> None:
        self.version = 0
        self.tables = {0: torch.zeros(VOCAB, VOCAB)}
        self.begun = 0
        self.wait_for: threading.Event | None = None

    def generate(self, requests: Sequence[RolloutRequest], sampling: SamplingParams) -> list[Group]:
        self.begun += 1
        version = self.version
        if self.wait_for is not None and self.begun == 2:
            assert self.wait_for.wait(timeout=20), "the trainer did nothing while this was drawn"
        return [
            Group(
                index=request.index,
                prompt=request.prompt,
                responses=tuple(
                    self._response(request.prompt, seed, sampling.max_new_tokens, version)
                    for seed in request.seeds
                ),
            )
            for request in requests
        ]

    def _response(self, prompt: Prompt, seed: int, length: int, version: int) -> Response:
        log_prob_VV = torch.log_softmax(self.tables[version], dim=-1)
        draws = uniform(torch.tensor(seed).expand(length), torch.arange(length)).tolist()
        tokens, log_prob, last = [], [], prompt.tokens[-1]
        for draw in draws:
            cumulated = log_prob_VV[last].exp().cumsum(0)
            token = min(int((cumulated < draw).sum()), VOCAB - 1)
            tokens.append(token)
            log_prob.append(float(log_prob_VV[last, token]))
            last = token
        return Response(tokens=tuple(tokens), log_prob=tuple(log_prob), finish="length", version=version)

    def receive_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> Metrics:
        [(_, table)] = named_tensors
        self.tables[version] = table.clone()
        self.version = version
        return {}

    def rest(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_responses_come_from_the_weights_that_the_staleness_allows(staleness: int) -> None:
    engine = BigramEngine()
    trainer = make_trainer(engine=engine, staleness=staleness, lr=0.3)
    trainer.publish(0)
    for step in range(1, 8):
        report = trainer.step(step)
        drawn_by = {response.version for group in report.groups for response in group.responses}
        assert drawn_by == {max(step - 1 - staleness, 0)}
        assert report.metrics["staleness/mean"] == step - 1 - max(step - 1 - staleness, 0)
        # The trainer scores with the newest weights, so its log-prob minus the engine's is their difference.
        newest, older = (
            torch.log_softmax(engine.tables[version], dim=-1) for version in (step - 1, *drawn_by)
        )
        batch = report.batch
        before = torch.cat([batch.token.new_zeros(1), batch.token[:-1]])
        inner = batch.position > 0
        expected = (newest - older)[before, batch.token][inner]
        assert batch.log_prob_old is not None
        found = (batch.log_prob_old - batch.log_prob_engine)[inner]
        assert torch.allclose(found, expected, atol=1e-5)
    assert len(engine.tables) == 8


def test_the_next_step_is_drawn_while_this_one_is_learnt_from() -> None:
    engine = BigramEngine()
    trainer = make_trainer(engine=engine, staleness=1)
    trainer.publish(0)
    engine.wait_for = threading.Event()
    update = trainer.actor.update

    def signalling(*args: object, **kwargs: object) -> dict[str, float]:
        engine.wait_for.set()  # type: ignore[union-attr]
        return update(*args, **kwargs)  # type: ignore[arg-type]

    trainer.actor.update = signalling  # type: ignore[method-assign]
    trainer.step(1)
    assert engine.begun == 2
    assert trainer.step(2).metrics["time/generate_hidden_s"] > 0


def test_nothing_is_drawn_beyond_the_last_step() -> None:
    engine = BigramEngine()
    trainer = make_trainer(engine=engine, staleness=3, num_steps=4)
    trainer.publish(0)
    for step in range(1, 5):
        trainer.step(step)
    assert engine.begun == 4


def test_an_engine_s_error_reaches_the_step_that_needed_it() -> None:
    def failing(step: int) -> list[Group]:
        if step == 2:
            raise EngineError("the server is gone")
        return []

    ahead = Ahead(failing, depth=1, last_step=5, timeout_s=20)
    assert ahead.take(1) == []
    with pytest.raises(EngineError, match="the server is gone"):
        ahead.take(2)


def test_a_wait_has_a_limit() -> None:
    released = threading.Event()

    def waiting(_: int) -> list[Group]:
        released.wait(timeout=20)
        return []

    ahead = Ahead(waiting, depth=1, last_step=5, timeout_s=0.05)
    with pytest.raises(EngineError, match=r"step 1 did not come within run\.timeout_s=0\.05"):
        ahead.take(1)
    released.set()


def test_responses_older_than_allowed_are_refused() -> None:
    engine = BigramEngine()
    trainer = make_trainer(engine=engine, staleness=1)
    trainer.publish(0)
    with pytest.raises(EngineError, match=r"version 0 of the weights; .* must be of version 2 to 3"):
        trainer.step(4)


# ---------------------------------------------------------------- in a checkpoint


def some_groups(count: int) -> list[Group]:
    response = Response(
        tokens=(3, 1, 4),
        log_prob=(-0.1, -1 / 3, -2.718281828459045e-20),
        finish="stop",
        version=2,
        top_tokens=((1, 2), (3, 4), (5, 6)),
        top_log_prob=((-0.1, -0.2), (-0.3, -0.4), (-0.5, -0.6)),
    )
    return [
        Group(
            index=index,
            prompt=Prompt(
                id=f"p{index}",
                tokens=(1, index),
                text="\u00e9\n",
                answer="7",
                split="easy",
                labels=(("level", "5"),),
            ),
            responses=(response, response),
        )
        for index in range(count)
    ]


def test_what_was_drawn_is_read_back_to_the_bit(tmp_path: Path) -> None:
    drawn = {5: some_groups(3), 6: []}
    write_drawn(tmp_path / "rollouts-0.json", drawn)
    assert read_drawn(tmp_path / "rollouts-0.json") == drawn


@pytest.mark.parametrize("text", ["", "[]", '{"5": [{"index": 0}]}', '{"five": []}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rollouts-0.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"rollouts-0\.json does not hold rollouts"):
        read_drawn(path)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_another_number_of_leaders_shares_it_anew(tmp_path: Path, before: int, after: int) -> None:
    groups = some_groups(7)
    for rank in range(before):
        write_drawn(tmp_path / f"rollouts-{rank}.json", {5: groups[rank::before]})
    for rank in range(after):
        ahead = Ahead(lambda _: [], depth=1, last_step=5, timeout_s=20, leader=rank, leaders=after)
        ahead.load(tmp_path)
        assert sorted(group.index for group in ahead.take(5)) == [g.index for g in groups[rank::after]]


@pytest.mark.full
@pytest.mark.timeout(900)
def test_killed_and_resumed_draws_nothing_twice(program: Program) -> None:
    words = (*DEMO, "checkpoint.keep=4", "rollout.staleness=1")
    whole, run = program.folder / "ahead", program.folder / "ahead-killed"
    program.run("train", *words, f"run.dir={whole}").check()
    assert read_drawn(checkpoint(whole, 4) / "model" / "rollouts-0.json").keys() == {5}
    assert [line["staleness/mean"] for line in repeatable(whole)] == [0, 1, 1, 1, 1, 1]
    moment = r"open 1 step-00000006\.partial/manifest\.json -> w"
    program.run_dying_at(moment, "train", *words, f"run.dir={run}")
    program.run("resume", str(run)).check()
    assert repeatable(run) == repeatable(whole)
    assert largest_difference(checkpoint(run, 6), checkpoint(whole, 6)) == 0.0
    assert saved_state(checkpoint(run, 6)) == saved_state(checkpoint(whole, 6))
