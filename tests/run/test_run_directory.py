"""What a real run leaves behind: every file, every number explained, and no process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.documents import documented_metrics, metrics_of_methods, metrics_of_servers
from support.runs import DEMO, Outcome, Program, committed, recorded_steps, repeatable
from support.tiny_hf import save_tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megaent.report.metrics import read_metrics

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

EVALUATED = ("evaluate.at_start=true", "evaluate.every=1", "evaluate.prompts=4", "evaluate.group_size=8")
FILES = {
    "checkpoints",
    "command.json",
    "config.yaml",
    "curves.png",
    "hf",
    "log.txt",
    "method.txt",
    "metrics.jsonl",
    "prompt.txt",
    "responses.md",
    "summary.json",
    "summary.md",
    "tables",
    "tensorboard",
}


@pytest.fixture(scope="module")
def run(program: Program) -> Path:
    """Two steps of the demonstration with everything switched on that writes."""
    run = program.folder / "everything"
    overrides = [word for word in DEMO if not word.startswith(("evaluate.", "run.tensorboard", "steps="))]
    outcome = program.run("train", *overrides, *EVALUATED, "steps=2", f"run.dir={run}").check()
    assert outcome.err == ""
    assert outcome.left_behind == ()
    return run


def test_every_file_is_there(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == FILES
    assert committed(run) == [2]
    assert list((run / "tensorboard").iterdir())
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((run / "command.json").read_text())["threads"] == 1
    summary = json.loads((run / "summary.json").read_text())
    assert 0 <= summary["before"]["accuracy"] <= 1
    assert 0 <= summary["after"]["accuracy"] <= 1


def test_every_number_is_explained(run: Path, repository: Path) -> None:
    lines = read_metrics(run / "metrics.jsonl")
    names = set().union(*lines) - {"step"}
    assert {"evaluate/n_2/accuracy", "evaluate/n_3/accuracy"} <= names
    of_no_split = {re.sub(r"^evaluate/n_[23]/", "evaluate/", name) for name in names}
    documented = repository / "docs" / "metrics.md"
    others = metrics_of_methods(documented) | metrics_of_servers(documented)
    others |= {n for n in documented_metrics(documented) if n.startswith(("kept/", "precision/", "experts/"))}
    assert of_no_split == documented_metrics(documented) - others


def test_every_step_has_a_line_and_responses(run: Path) -> None:
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [1, 2]
    text = (run / "responses.md").read_text()
    assert text.count("## step 1\n") == 1
    assert text.count("## step 2\n") == 1
    assert text.count("\nreward ") == 8


def test_the_loop_runs_with_the_fake_engine(program: Program) -> None:
    run = program.folder / "fake"
    program.run("train", *DEMO, "rollout=fake", "steps=2", f"run.dir={run}").check()
    lines = repeatable(run)
    assert [line["step"] for line in lines] == [1, 2]
    assert committed(run) == [2]
    # It knows nothing of the model, and the measure of that says so.
    assert lines[0]["mismatch/mean_abs"] > 0.1


# ---------------------------------------------------------------- questions from a file


# Sums equal to one half and to zero, which only mathematics can compare with 0.5 and 0.0.
HALVES = tuple(f"\\boxed{{\\sum_{{i=1}}^{{{k}}}\\frac{{1}}{{{2 * k}}}}}" for k in range(1, 31))
ZEROS = tuple(f"\\boxed{{\\sum_{{i=1}}^{{{k}}}0}}" for k in range(1, 31))
WORDS = ("<pad>", "<eos>", "<unk>", "half", *HALVES, *ZEROS)

Graded = tuple[Outcome, tuple[str, ...], Path]  # how it ended, its processes after a step, its directory


@pytest.fixture(scope="module")
def graded(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Graded:
    """Two steps of an untrained model that knows hardly a word but fractions."""
    folder = tmp_path_factory.mktemp("graded")
    save_tiny(
        folder / "model", family="llama", tie=False, vocab_size=len(WORDS), eos_token_id=1, pad_token_id=0
    )
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece(cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "model")
    rows = [{"question": f"{i} half", "answer": f"half of it\n#### 0.{5 * (i % 2)}"} for i in range(16)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = folder / "run"
    running = program.start(
        "train",
        "model=hf",
        f"model.path={folder / 'model'}",
        "data=jsonl",
        f"data.path={folder / 'rows.jsonl'}",
        "data.template=plain",
        "steps=2",
        "rollout.prompts_per_step=4",
        "rollout.group_size=8",
        "rollout.max_new_tokens=6",
        "run.tensorboard=false",
        f"run.dir={run}",
    )
    running.wait_until(lambda: recorded_steps(run) > 0)
    alive = running.descendants()
    return running.finish().check(), alive, run


def test_checkers_live_and_die_with_the_run(graded: Graded) -> None:
    outcome, alive, _ = graded
    assert sum("math_worker.py" in command for command in alive) in (1, 2)
    assert outcome.left_behind == ()
    assert outcome.err == ""


def test_sums_are_graded_by_their_value(graded: Graded) -> None:
    _, _, run = graded
    assert all(0.2 < line["accuracy/mean"] < 0.8 for line in repeatable(run))
    shown = re.findall(
        r"(?m)^reward (\d) .* answer '(0\.\d)'.*\n```text\n[^`]*```\n```text\n([^`]*)\n```",
        (run / "responses.md").read_text(),
    )
    assert len(shown) == 8
    for reward, key, response in shown:
        boxes = re.findall(r"\\boxed{\\sum_{i=1}\^{\d+}(0|\\frac)", response)
        is_right = bool(boxes) and (boxes[-1] == "0") == (key == "0.0")
        assert int(reward) == is_right, response
