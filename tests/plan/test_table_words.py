"""The command line can say what tables of measurements say: a published row as words is the same plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaent.errors import ConfigError
from megaent.plan.constants import Constants
from megaent.plan.machine import Machine
from megaent.plan.question import read_question
from megaent.plan.rows import TrainRow, UnplannedError, read_row, read_rows
from megaent.plan.search import Search
from megaent.plan.training import train_seconds

ROWS = [
    row
    for row in read_rows(Path(__file__).parents[2] / "benchmarks" / "plan_rows.csv")
    if row["workload"] == "train"
]
COLUMNS = ("gpu", "n_gpus", "tp", "pp", "cp", "ep", "seq_len", "global_batch", "precision", "recompute")
COLUMNS += ("model", "hidden", "layers", "params_b", "workload")


def columns(row: dict[str, str]) -> list[str]:
    return [f"{name}={row[name]}" for name in COLUMNS if row[name]]


def from_notes(read: TrainRow) -> list[str]:
    """What a row's notes add to its columns."""
    work, layout = read.work, read.layout
    words = [f"micro_batch={round(work.tokens / read.seq_len)}", f"vpp={layout.vpp}"]
    words += [f"{name}={getattr(work, name)}" for name in ("stack", "head", "attention", "states")]
    return [
        *words,
        f"sequence_parallel={str(layout.sequence_parallel).lower()}",
        f"sharding={layout.sharding}",
        f"lora={str(work.lora).lower()}",
    ]


def test_each_row_is_the_same_plan_in_words() -> None:
    compared = 0
    for row in ROWS:
        try:
            read = read_row(row, Constants())
        except UnplannedError:
            continue
        best = Search(read_question(columns(row) + from_notes(read))).run().candidates[0]
        assert best.layout == read.layout, row
        direct = train_seconds(Machine(read.cluster, Constants()), read.shape, read.layout, read.work)
        assert best.seconds == pytest.approx(direct.total, rel=1e-12), row
        compared += 1
    assert compared > 180


def test_a_rows_columns_alone_say_whose_software_it_was() -> None:
    """FSDP for MPT's models, scores in memory for fp16: a plan without notes is that of the row."""
    for row in ROWS:
        if "llm-foundry" not in row["source"] and row["precision"] != "fp16":
            continue
        read = read_row(row, Constants())
        found = Search(read_question([*columns(row), f"micro_batch={row['micro_batch'] or 0}"]))
        work = found.run().candidates[0].work
        assert (work.stack, work.attention) == (read.work.stack, read.work.attention), row


def test_a_step_may_be_told_as_tables_tell_it() -> None:
    said = "workload=rl_step seq_len=4096 prompt_tokens=120 response_tokens=900 prompts=64 group_size=32 "
    said += "global_batch=512 micro_batch=2"
    question = read_question(["model=llama3_8b", *said.split()])
    assert question.is_rl
    assert (question.max_new_tokens, question.minibatches, question.microbatch_tokens) == (3976, 4, 8192)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["seq_len=4096", "max_new_tokens=1024"], "seq_len and max_new_tokens both say"),
        (["global_batch=500"], "global_batch=500 does not divide the 2048 responses"),
        (["global_batch=0"], "global_batch=0 does not divide"),
        (["micro_batch=2"], "micro_batch counts sequences of seq_len tokens"),
        (["seq_len=100"], "leaves -156 tokens beside prompt_tokens=256"),
        (["seq_len=2048"], "leaves 1792 tokens .*, where response_tokens=4096 is the mean"),
        (["sequence_parallel=true", "tp=1"], "sequence_parallel=true has no effect with tp=1"),
        (["constants.file_gbps=2"], "is of published rows"),
    ],
)
def test_a_step_that_is_told_twice_or_in_part_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_question(["model=llama3_8b", *words])


@pytest.mark.parametrize("said", ["unknown", "any", "see recipe"])
def test_a_recomputation_that_is_not_told_is_none(said: str) -> None:
    assert read_question(["model=llama3_8b", f"recompute={said}"]).recompute == "none"
    with pytest.raises(ConfigError, match="recompute must be one of"):
        read_question(["model=llama3_8b", f"recompute={said}!"])


def test_sequence_parallel_can_be_said_and_is_of_tensor_ranks() -> None:
    words = ["model=gpt_22b", "cluster=a100_80", "gpus=8", "tp=8", "workload=train", "precision=fp16"]
    words += ["global_batch=4", "micro_batch=4", "seq_len=2048", "pp=1", "cp=1", "recompute=selective"]

    def activations(said: str) -> float:
        return (
            Search(read_question([*words, f"sequence_parallel={said}"]))
            .run()
            .candidates[0]
            .memory.activations
        )

    assert activations("true") < 0.75 * activations("false")
