"""``megaent shard``: the texts of a file, tokenised once, as a reader then finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaent.cli import main
from megaent.model_folder.tokenizer import load_tokenizer, tokenizer_digest
from megaent.shards.files import Shards

TEXTS = [f"text {n} \u00e9\n\n" for n in range(25)]


def test_every_text_is_a_sequence(
    tmp_path: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    out = tmp_path / "shards"
    assert main(["shard", str(file), f"model={byte_model}", f"out={out}", "column=body", "tokens=100"]) == 0
    shards = Shards(out, tokenizer=tokenizer_digest(byte_model))
    shards.verify()
    tokenizer = load_tokenizer(byte_model)
    assert [tokenizer.decode(shards.sequence(n).tolist()) for n in range(len(shards))] == TEXTS
    assert (
        f"25 sequences, {sum(len(shards.sequence(n)) for n in range(25))} tokens, in"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["column=other"], "texts.jsonl line 1: expected a text in 'other'"),
        (["tokens=0"], "tokens must be a whole number above 0"),
        (["rows=3"], "shard takes a file, model=, out="),
    ],
)
def test_what_cannot_be_sharded_is_told(
    tmp_path: Path, byte_model: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"text": "a"}) + "\n")
    assert main(["shard", str(file), f"model={byte_model}", f"out={tmp_path / 'out'}", *words]) in (2, 3)
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()
