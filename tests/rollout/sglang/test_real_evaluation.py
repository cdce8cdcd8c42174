"""``megaent evaluate engine=sglang``: as the embedded engine answers, and a server that stands still."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.real_server import START_LIMIT_S

from megaent.cli import main
from megaent.rollout.sglang.server import Server

pytestmark = [pytest.mark.full, pytest.mark.timeout(3 * START_LIMIT_S)]

PROMPTS = 20


def words(model: Path, out: Path, *more: str) -> list[str]:
    asked = ("data=chain_sum", f"prompts={PROMPTS}", "k=1", "temperature=0", "max_new_tokens=24")
    return ["evaluate", str(model), *asked, f"out={out}", *more]


def by_servers(*servers: Server) -> tuple[str, ...]:
    urls = ",".join(server.url for server in servers)
    return ("engine=sglang", f"rollout.urls=[{urls}]", "rollout.concurrency=4", "rollout.silence_limit_s=3")


def answers(out: Path) -> list[tuple[str, list[int]]]:
    """Of each prompt in its order, so far."""
    file = out / "responses.jsonl"
    rows = map(json.loads, file.read_text().splitlines() if file.exists() else [])
    return [(row["id"], sample["tokens"]) for row in rows for sample in row["samples"]]


@contextmanager
def stopped_amid(server: Server, out: Path) -> Iterator[None]:
    """The server stands still once some prompts are answered, and goes on at the end."""
    is_over = threading.Event()

    def stop() -> None:
        while not answers(out) and not is_over.is_set():
            time.sleep(0.02)
        os.killpg(server.pid, signal.SIGSTOP)

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        os.killpg(server.pid, signal.SIGCONT)


def test_a_server_that_stands_still_costs_nothing_and_both_engines_answer_alike(
    demo_folder: Path, real_servers: list[Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embedded, out = tmp_path / "embedded", tmp_path / "sglang"
    assert main(words(demo_folder, embedded)) == 0
    with stopped_amid(real_servers[0], out):
        assert main(words(demo_folder, out, *by_servers(real_servers[0]), "rollout.attempts=1")) != 0
    begun = answers(out)
    assert 0 < len(begun) < PROMPTS
    assert main(words(demo_folder, out, *by_servers(*real_servers))) == 0
    assert f"{len(begun)} of {PROMPTS} prompts are answered already" in capsys.readouterr().out
    assert answers(out)[: len(begun)] == begun
    assert dict(answers(out)) == dict(answers(embedded))
    ours, theirs = (json.loads((path / "summary.json").read_text())["all"] for path in (out, embedded))
    assert ours["estimates"] == theirs["estimates"]
