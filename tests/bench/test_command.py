"""The command line of the benchmarks: what it refuses, and one run from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from megaent.bench.peers import linear_peers, logits_peers
from megaent.bench.shapes import Shape, find_shape
from megaent.cli import main
from megaent.errors import ConfigError


def test_shapes_have_names_and_ranks() -> None:
    assert find_shape("qwen2.5-1.5b") == Shape("qwen2.5-1.5b", 1536, 151936)
    assert find_shape("qwen2.5-32b/8") == Shape("qwen2.5-32b/8", 5120, 19008)
    for wrong in ("qwen", "qwen2.5-7b/0", "qwen2.5-7b/x", "tiny/3"):
        with pytest.raises(ConfigError, match="--shapes"):
            find_shape(wrong)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: verb"),
        (["ops"], "required: --device"),
        (["ops", "--device", "tpu"], "invalid choice: 'tpu'"),
        (["ops", "--device", "cpu", "--rows", "0"], "--rows must be 1 or more, got 0"),
        (
            ["ops", "--device", "cpu", "--paths", "logit"],
            "--paths takes logits, linear, kl, extras, got 'logit'",
        ),
        (["ops", "--device", "cpu", "--dtypes", "fp8"], "--dtypes takes fp32, bf16, fp16, got 'fp8'"),
        (["ops", "--device", "cpu", "--shapes", "gpt"], "--shapes takes qwen2.5-1.5b"),
    ],
)
def test_words_it_does_not_know_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_without_a_card_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "ops", "--device", "cuda"]) == 8
    assert "needs a CUDA device" in capsys.readouterr().err


def test_absent_peers_name_the_command_that_adds_them() -> None:
    peers = [*logits_peers("cuda"), *linear_peers("cuda")]
    assert {peer.name for peer in peers} == {
        "flash-attn", "transformer-engine", "liger-kernel", "verl", "cut-cross-entropy"
    }  # fmt: skip
    for peer in peers:
        assert peer.compute is not None or peer.note.startswith("not installed: pip install '")


@pytest.mark.full
@pytest.mark.parametrize(
    ("device", "how", "name", "paths"),
    [
        ("cpu", "--quick", "ops_cpu.json", {"logits", "linear"}),
        ("cpu", "--quick --paths kl,extras --dtypes fp32", "ops_cpu_kl_extras.json", {"kl", "extras"}),
        ("cuda", "--rehearse --dtypes fp32", "ops_cuda.json", {"logits", "linear"}),
    ],
)
def test_from_end_to_end(
    device: str, how: str, name: str, paths: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--rehearse`` is the card's program on the CPU."""
    words = ["--device", device, *how.split(), "--threads", "1", "--out", str(tmp_path)]
    assert main(["bench", "ops", *words]) == 0
    shown = capsys.readouterr().out
    report = json.loads((tmp_path / name).read_text())
    assert {case["path"] for case in report["cases"]} == paths
    assert report["commit"]
    assert report["machine"]["threads"] == 1
    for case in report["cases"]:
        rows = {row["name"]: row for row in case["contenders"]}
        assert {"torch eager", "torch.compile"} < set(rows)
        assert any(row["is_ours"] and "median_wall_s" in row for row in rows.values())
        assert f"{case['path']} path, {case['pass']}, {case['dtype']}" in shown
    assert main(["bench", "table", str(tmp_path / name)]) == 0
    assert "torch eager" in capsys.readouterr().out
