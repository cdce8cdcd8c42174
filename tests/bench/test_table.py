"""The tables show what was measured; the one in the documents is that of the committed numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaent.bench import table
from megaent.errors import DataError


def row(name: str, wall: float | None, cpu: float | None = None, **more) -> dict:
    made = {"name": name, "has_entropy": True, "note": "", "peak_extra_bytes": 44 * 100, "is_ours": False}
    if wall is not None:
        made |= {"median_wall_s": wall, "share_of_roofline": 0.5}
    if cpu is not None:
        made["median_cpu_s"] = cpu
    return made | more


CASE = {
    "path": "logits",
    "pass": "forward",
    "dtype": "bf16",
    "shape": "qwen2.5-7b",
    "rows": 100,
    "vocab_size": 152064,
    "hidden_size": 3584,
    "roofline": {"what": "copy, B", "per_s": 5e9, "median_wall_s": 0.01, "median_cpu_s": 0.02},
    "contenders": [
        row("torch eager", 4.0, 8.0),
        row("torch.compile", 0.5, 0.8),
        row("megaent cpu", 0.25, 0.4),
        row("peer", None, note="not installed: pip install 'peer'"),
    ],
}


def test_ratios_are_of_cpu_seconds_where_there_are_any() -> None:
    lines = {line[0]: line for line in table.lines(CASE)}
    assert lines["copy (5 GB/s)"][1:3] == ("10", "20")
    assert lines["megaent cpu"] == ("megaent cpu", "250", "400", "20", "2", "50%", "44 B a token", "yes")
    on_gpu = CASE | {"contenders": [row("torch eager", 4.0), row("megaent triton", 0.25)]}
    assert table.lines(on_gpu)[2] == ("megaent triton", "250", "", "16", "", "50%", "44 B a token", "yes")


def test_who_did_not_run_says_why_on_the_terminal_and_is_left_out_of_documents() -> None:
    report = {
        "machine": {"name": "a card"},
        "versions": {"torch": "2.13.0"},
        "date": "2026-11-21",
        "commit": "0123456789abcdef",
        "command": "megaent bench ops --device cuda",
        "rounds": 5,
        "cases": [CASE],
    }
    assert "not installed: pip install 'peer'" in table.text(CASE)
    made = table.markdown([report])
    assert "peer" not in made
    assert "### a card\n\ntorch 2.13.0, 2026-11-21, commit 0123456789ab, `megaent bench ops" in made
    assert "logits path, forward, bf16, qwen2.5-7b (N = 100, V = 152064):" in made


@pytest.mark.parametrize(("num_bytes", "shown"), [(4400, "44 B a token"), (300 * 2**20, "300 MiB")])
def test_memory_is_shown_by_the_token_where_it_is_that_little(num_bytes: int, shown: str) -> None:
    assert table.memory(num_bytes, 100) == shown


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    document = tmp_path / "kernels.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    table.put_into(document, "new\n")
    assert document.read_text() == f"before\n{table.BEGIN}\n\nnew\n\n{table.END}\nafter\n"
    document.write_text("no marks")
    with pytest.raises(DataError, match="once each"):
        table.put_into(document, "new")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ops_cpu.json"
    path.write_text(json.dumps({"results": {}}))
    with pytest.raises(DataError, match=r"ops_cpu\.json is no report"):
        table.read_reports([path])


def test_the_documents_table_is_that_of_the_committed_numbers(repository: Path) -> None:
    reports = sorted((repository / "benchmarks" / "results").glob("*/ops_*.json"))
    document = (repository / "docs" / "kernels.md").read_text()
    shown = document.split(table.BEGIN)[1].split(table.END)[0].strip()
    made = table.markdown(table.read_reports(reports)).strip()
    assert shown == made, "run `megaent bench table --into docs/kernels.md`"
