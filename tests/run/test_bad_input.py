"""Every mistake a person can make ends in one message, an exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.runs import DEMO, Outcome, Program, committed, contents, repeatable
from support.tiny_hf import save_tiny

from megaent.data.chain_sum import VOCABULARY
from megaent.small_models.warmup import make_tokenizer

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

ROW = {"question": "a1 b2", "answer": "3"}


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A command that cannot work. ``{here}`` in a word is the folder of its files, ``{run}`` its run.dir."""

    words: tuple[str, ...]
    code: int
    says: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


JSONL = (
    "train",
    "model=hf",
    "model.path={here}/model",
    "data=jsonl",
    "data.path={here}/rows.jsonl",
    "data.template=plain",
    "steps=1",
    "rollout.prompts_per_step=2",
    "rollout.group_size=2",
    "rollout.max_new_tokens=8",
    "run.tensorboard=false",
    "run.dir={run}",
)
DEMO_RUN = ("train", *DEMO, "run.dir={run}")
THREE_RANKS = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}

# Said before what takes its time; everything else belongs to stderr.
TOLD = {
    "reading the configuration",
    "loading PyTorch",
    "loading Megatron-Core",
    "loading the tokenizer and the prompts",
}

MISTAKES = {
    "missing_data": Mistake(
        words=(*JSONL, "data.path={here}/nowhere.jsonl"),
        code=3,
        says=("{here}/nowhere.jsonl cannot be read: No such file", "set data.path"),
    ),
    "empty_data": Mistake(
        words=(*JSONL, "data.path={here}/empty.jsonl"),
        code=3,
        says=("{here}/empty.jsonl must hold at least one question, got an empty file",),
    ),
    "malformed_line": Mistake(
        words=(*JSONL, "data.path={here}/malformed.jsonl"),
        code=3,
        says=("{here}/malformed.jsonl line 2: each line must be one JSON object",),
    ),
    "long_prompt": Mistake(
        words=(*JSONL, "data.path={here}/long.jsonl"),
        code=3,
        says=("{here}/long.jsonl line 3: the prompt has 6", "leaves room for 248", "shorten or drop the row"),
    ),
    "unusable_answer": Mistake(
        words=(*JSONL, "data.path={here}/unusable.jsonl"),
        code=3,
        says=("{here}/unusable.jsonl line 1: the answer cannot be graded", "name the field"),
    ),
    "unknown_key": Mistake(
        words=(*DEMO_RUN, "rollout.prompts_per_stp=4"),
        code=2,
        says=("no configuration key 'rollout.prompts_per_stp'; did you mean rollout.prompts_per_step",),
    ),
    "wrong_type": Mistake(words=(*DEMO_RUN, "steps=many"), code=2, says=("steps", "'many'", "Integer")),
    "heads_not_divided": Mistake(
        words=(*JSONL, "parallel.tensor_model_parallel_size=3"),
        code=2,
        environment=THREE_RANKS,
        says=(
            "parallel.tensor_model_parallel_size=3 does not divide the model's 4 attention heads",
            "[1, 2, 4]",
        ),
    ),
    "world_not_divided": Mistake(
        words=(*DEMO_RUN, "parallel.tensor_model_parallel_size=2"),
        code=2,
        environment=THREE_RANKS,
        says=(
            "tensor 2 x pipeline 1 x context 1 = 2 processes",
            "the world has 3",
            "torchrun --nproc-per-node 2",
        ),
    ),
    "missing_model": Mistake(
        words=(*JSONL, "model.path={here}/nowhere"),
        code=4,
        says=("model.path must be a Hugging Face folder with a config.json, got '{here}/nowhere'",),
    ),
    "no_model": Mistake(
        words=tuple(word for word in JSONL if not word.startswith("model.path")),
        code=2,
        says=("model.path has no value; add model.path=",),
    ),
    "run_dir_in_a_file": Mistake(
        words=(*DEMO_RUN[:-1], "run.dir={here}/empty.jsonl/run"),
        code=2,
        says=("run.dir={here}/empty.jsonl/run cannot be",),
    ),
    "port_in_use": Mistake(
        words=DEMO_RUN,
        code=2,
        environment={"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"},
        says=("EADDRINUSE", "MASTER_PORT"),
    ),
    "resume_of_nothing": Mistake(
        words=("resume", "{here}/nowhere"),
        code=5,
        says=("{here}/nowhere holds no run", "give the directory of a run"),
    ),
    "resume_elsewhere": Mistake(
        words=("resume", "{here}", "run.dir={run}"), code=2, says=("copy the directory", "without run.dir=")
    ),
    "resume_of_no_word": Mistake(
        words=("resume", "steps=4"),
        code=2,
        says=("resume needs the directory of a run: megaent resume runs/",),
    ),
}
# Refused before anything is built; a busy machine needs seconds to import torch.
QUICK = ("unknown_key", "wrong_type", "heads_not_divided", "world_not_divided", "missing_model", "no_model")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_input")
    save_tiny(folder / "model", family="qwen2", tie=True, vocab_size=len(VOCABULARY))
    make_tokenizer().save_pretrained(folder / "model")
    line = json.dumps(ROW)
    long = json.dumps({"question": "a1 " * 300, "answer": "3"})
    unusable = json.dumps({"question": "a1 b2", "answer": "nobody knows " * 20})
    for name, text in {
        "rows": "\n".join(json.dumps({"question": f"a{i} b2", "answer": str(i + 2)}) for i in range(8)),
        "empty": "",
        "malformed": f"{line}\n{line[:-1]}\n{line}\n",
        "long": f"{line}\n{line}\n{long}\n",
        "unusable": f"{unusable}\n{line}\n",
    }.items():
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture(scope="module")
def outcomes(program: Program, here: Path, reference: Path) -> dict[str, Outcome]:
    """All mistakes made, two at a time. ``reference`` is asked for its warmed-up model."""
    del reference

    def make(name: str) -> Outcome:
        mistake = MISTAKES[name]
        words = [word.format(here=here, run=here / f"run-{name}") for word in mistake.words]
        return program.run(*words, environment=mistake.environment | more)

    with occupied_port() as port, ThreadPoolExecutor(2) as pool:
        more = {"MASTER_PORT": str(port)}
        return dict(zip(MISTAKES, pool.map(make, MISTAKES), strict=True))


@contextmanager
def occupied_port() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gets_one_message(outcomes: dict[str, Outcome], here: Path, name: str) -> None:
    check_one_message(outcomes[name], MISTAKES[name].code)
    for part in MISTAKES[name].says:
        assert part.format(here=here) in outcomes[name].err


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_leaves_no_run_and_no_process(outcomes: dict[str, Outcome], here: Path, name: str) -> None:
    assert not (here / f"run-{name}").exists()
    assert outcomes[name].left_behind == ()


def check_one_message(outcome: Outcome, code: int) -> None:
    """One message, of a few lines at most, and nothing else."""
    assert outcome.code == code, outcome
    first, *others = outcome.err.splitlines()
    assert first.startswith(("megaent: ", "megaent (rank 0): ")), outcome.err
    assert len(others) <= 6, outcome.err
    assert not any(word in line for line in others for word in ("megaent", "Traceback", "Warning")), (
        outcome.err
    )


def test_what_needs_no_model_is_refused_before_any_is_made(outcomes: dict[str, Outcome]) -> None:
    for name in QUICK:
        assert set(outcomes[name].out.splitlines()) <= TOLD, name
        # Making one takes a minute and its import alone more than this.
        assert outcomes[name].seconds < 60, name


# ---------------------------------------------------------------- directories and disks


def test_a_directory_that_holds_a_run_is_left_as_it_is(
    program: Program, reference: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    before = contents(run)
    outcome = program.run("train", *DEMO, f"run.dir={run}")
    check_one_message(outcome, 2)
    assert f"run.dir={run} already holds a run; continue it with `megaent resume {run}`" in outcome.err
    assert contents(run) == before


def test_the_checkpoint_of_another_model_is_refused(
    program: Program, reference: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    before = contents(run)
    outcome = program.run("resume", str(run), "model.hidden_size=32", "model.warmup_steps=1")
    check_one_message(outcome, 5)
    assert f"{run}/checkpoints/step-00000006 is of another model" in outcome.err
    after = contents(run)
    for listing in (before, after):
        listing.pop("log.txt")
    assert after == before


def test_a_default_that_moved_since_is_not_taken(program: Program, reference: Path, tmp_path: Path) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    config = run / "config.yaml"
    then = config.read_text()
    assert then.count("  beta2: 0.999\n") == 1
    config.write_text(then.replace("  beta2: 0.999\n", "  beta2: 0.95\n"))
    outcome = program.run("resume", str(run))
    check_one_message(outcome, 5)
    assert "was started when optim.beta2 was 0.95, and this version of megaent makes it 0.999" in outcome.err
    assert "add optim.beta2=0.95 to the command" in outcome.err
    program.run("resume", str(run), "optim.beta2=0.95").check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for a run and not for a checkpoint; without root, a limit on the size of a file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], check=False)
    try:
        yield disk
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_ends_the_run_with_what_is_missing(
    program: Program, reference: Path, small_disk: Path
) -> None:
    run = small_disk / "run"
    limit = () if os.path.ismount(small_disk) else ("prlimit", "--fsize=300000")
    outcome = program.start("train", *DEMO, f"run.dir={run}", under=limit).finish()
    assert outcome.code == 5, outcome
    # Megatron may log one line of its own about a writer that failed.
    (message,) = [line for line in outcome.err.splitlines() if line.startswith("megaent")]
    assert "could not be written" in message
    assert "bytes are free" in message
    assert "Make room" in message
    assert "Traceback" not in outcome.err
    assert outcome.left_behind == ()
    # What was recorded is whole, and no checkpoint pretends to be one.
    assert repeatable(run) == repeatable(reference)[:2]
    assert committed(run) == []
