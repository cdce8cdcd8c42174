"""A step's rows are the batch's own numbers, of responses drawn without favour."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from support.tiny_loop import VOCAB, make_trainer

from megaent.loop.trainer import StepReport
from megaent.report.tables import TABLES, parts, read_table, rows
from megaent.run.step_rows import MOST_TOKENS, StepRows, choose
from megaent.run.table_writer import TableWriter


def report_of(method: dict | None = None, step: int = 1) -> StepReport:
    trainer = make_trainer(method=method)
    trainer.publish(0)
    for number in range(1, step):
        trainer.step(number)
    return trainer.step(step)


def made(report: StepReport, *, responses: int = 8, step: int = 1) -> dict[str, list[dict]]:
    tables = StepRows(spell=lambda ids: f"<{ids}>", vocab_size=VOCAB, num_responses=responses)(step, report)
    assert tables.keys() == TABLES.keys()
    return {name: rows(name, columns).to_pylist() for name, columns in tables.items()}


def test_steps_and_entropy_are_those_of_the_whole_batch() -> None:
    report = report_of()
    tables = made(report)
    assert {row["metric"]: row["value"] for row in tables["steps"]} == report.metrics
    entropy = report.batch.entropy
    assert entropy is not None
    for row in tables["entropy"]:
        inside = (entropy >= row["low"] - 1e-6) & (entropy < row["high"] + 1e-6)
        assert 0 < row["tokens"] <= int(inside.sum())
    assert sum(row["tokens"] for row in tables["entropy"]) == report.batch.num_tokens
    assert tables["entropy"][-1]["high"] <= math.log(VOCAB) + 1e-9


def test_groups_are_means_over_their_responses_and_tokens() -> None:
    report = report_of()
    batch = report.batch
    assert batch.entropy is not None
    ordered = sorted(report.groups, key=lambda group: group.index)
    entropy_R = iter(batch.entropy.split(batch.length.tolist()))
    for row, group in zip(made(report)["groups"], ordered, strict=True):
        entropies = [next(entropy_R).tolist() for _ in group.responses]
        right = [
            e for each, grade in zip(entropies, group.grades, strict=True) if grade.correct for e in each
        ]
        wrong = [
            e for each, grade in zip(entropies, group.grades, strict=True) if not grade.correct for e in each
        ]
        assert row["prompt_id"] == group.prompt.id
        assert (row["place"], row["responses"]) == (group.index, len(group.responses))
        assert row["correct"] == sum(grade.correct for grade in group.grades)
        assert row["reward"] == pytest.approx(fmean(grade.reward for grade in group.grades))
        assert row["length"] == fmean(len(response.tokens) for response in group.responses)
        assert row["entropy"] == pytest.approx(fmean(right + wrong), rel=1e-6)
        assert row["entropy_correct"] == (pytest.approx(fmean(right), rel=1e-6) if right else None)
        assert row["entropy_incorrect"] == (pytest.approx(fmean(wrong), rel=1e-6) if wrong else None)


def test_tokens_are_those_of_the_responses_that_were_drawn() -> None:
    report = report_of(step=3)
    tables = made(report, step=3, responses=5)
    groups = {group.prompt.id: group for group in report.groups}
    assert len(tables["responses"]) == 5
    for row in tables["responses"]:
        response = groups[row["prompt_id"]].responses[row["response"]]
        grade = groups[row["prompt_id"]].grades[row["response"]]
        tokens = [
            t
            for t in tables["tokens"]
            if (t["prompt_id"], t["response"]) == (row["prompt_id"], row["response"])
        ]
        assert tuple(t["token"] for t in tokens) == response.tokens
        assert [t["position"] for t in tokens] == list(range(row["length"]))
        assert [t["text"] for t in tokens] == [f"<[{token}]>" for token in response.tokens]
        assert [t["log_prob_engine"] for t in tokens] == pytest.approx(response.log_prob)
        assert (row["reward"], row["correct"]) == (grade.reward, grade.correct)
        assert {t["correct"] for t in tokens} == {grade.correct}
        assert {t["step"] for t in tokens} == {3}
        assert len({t["advantage"] for t in tokens}) == 1, "GRPO's is one number a response"


def test_covariance_and_penalty_are_the_methods_own() -> None:
    """KL-Cov's penalty stands on the tokens of highest covariance of its minibatch."""
    report = report_of({"grpo": {}, "kl_cov": {"fraction": 0.1, "coef": 0.5}})
    tokens = made(report, responses=1000)["tokens"]
    assert {token["penalty"] for token in tokens} == {0.0, 0.5}
    mean_a = fmean(token["advantage"] for token in tokens)
    mean_l = fmean(token["log_prob"] for token in tokens)
    for token in tokens:
        truth = (token["advantage"] - mean_a) * (token["log_prob"] - mean_l)
        assert token["covariance"] == pytest.approx(truth, abs=1e-5)
    held = sum(token["penalty"] > 0 for token in tokens)
    assert held == sum(max(1, int(0.1 * count)) for count in _minibatches(report).values())
    assert {token["segment"] for token in tokens} == {None}


def _minibatches(report: StepReport) -> Counter[int]:
    return Counter(report.terms.minibatch.tolist())


def test_a_method_with_segments_names_them() -> None:
    report = report_of({"less": {"min_length": 1}})
    tokens = made(report, responses=1000)["tokens"]
    kinds = Counter(token["segment"] for token in tokens)
    assert set(kinds) <= {"high", "unique", "shared", "own_kind"}
    for name in ("unique", "shared"):
        assert kinds[name] / len(tokens) == pytest.approx(report.metrics[f"less/{name}"])


def test_every_response_is_as_likely_as_any_other() -> None:
    batch = report_of().batch
    counts = Counter(place for step in range(2000) for place in choose(batch, step, 8).tolist())
    expected = 2000 * 8 / batch.num_responses
    assert len(counts) == batch.num_responses
    # Six standard deviations of a binomial.
    assert all(abs(count - expected) < 6 * math.sqrt(expected) for count in counts.values())


def test_a_long_response_is_cut_and_a_prompt_too() -> None:
    report = report_of()
    long = MOST_TOKENS + 10
    one = torch.zeros(long)
    batch = replace(
        report.batch,
        prompts=(replace(report.batch.prompts[0], text="x" * 9000),),
        index=torch.zeros(1, dtype=torch.int64),
        token=one.long(),
        owner=one.long(),
        position=torch.arange(long),
        mask=one == 0,
        log_prob_engine=one,
        log_prob_old=one,
        entropy=one,
        group=torch.zeros(1, dtype=torch.int64),
        length=torch.tensor([long]),
        reward=torch.ones(1, dtype=torch.float64),
        correct=torch.ones(1, dtype=torch.bool),
        truncated=torch.ones(1, dtype=torch.bool),
    )
    terms = replace(report.terms, advantage=one, policy_weight=one, coefs={})
    tables = made(replace(report, batch=batch, terms=terms))
    assert len(tables["tokens"]) == MOST_TOKENS
    assert tables["responses"][0]["length"] == long
    assert len(tables["responses"][0]["prompt"]) == 2000


def test_parts_come_with_time_and_before_a_checkpoint(tmp_path: Path) -> None:
    report, now = report_of(), [0.0]
    writer = TableWriter(tmp_path, most_mb=10, clock=lambda: now[0])
    make = StepRows(spell=str, vocab_size=VOCAB, num_responses=2)
    for step in range(1, 31):
        now[0] += 3.0
        writer.write(make(step, report))
    writer.flush()
    assert [(part.first, part.last) for part in parts(tmp_path / "tables" / "tokens")] == [
        (1, 8),
        (9, 16),
        (17, 24),
        (25, 30),
    ]
    now[0] += 100_000
    for step in (31, 32):
        now[0] += 500
        writer.write(make(step, report))
    assert read_table(tmp_path, "steps").rows["step"].to_pylist()[-1] == 30, (
        "a hundredth of the time is longer"
    )
    writer.close()
    assert set(read_table(tmp_path, "groups").rows["step"].to_pylist()) == set(range(1, 33))


def test_a_folder_that_cannot_be_written_is_told_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "tables").write_text("in the way")
    writer = TableWriter(tmp_path, most_mb=10)
    writer.write(StepRows(spell=str, vocab_size=VOCAB, num_responses=2)(1, report_of()))
    with pytest.raises(OSError, match="tables"):
        writer.flush()
    writer.close()
