"""What docs/kernels.md says of rows, bytes, collectives, reads and paths is what the ops do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from megaent.bench.paths import PATHS
from megaent.ops import logprob_entropy, reference, token_statistics
from megaent.ops.backend import Backend
from megaent.ops.token_statistics import EXTRAS

NUM_TOKENS, VOCAB = 3, 40
BASE = ("log_prob", "entropy")


def cells(repository: Path, header: str) -> list[list[str]]:
    """The rows of the table under a header, cell by cell."""
    _, found, rest = (repository / "docs" / "kernels.md").read_text().partition(header + "\n")
    assert found, f"docs/kernels.md has no table {header}"
    lines = rest.splitlines()[1:]
    table = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def names(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`(\w+)`", cell))


class Reads:
    """The reference backend, which notes how many [N, V] each of its operations is given."""

    def __init__(self) -> None:
        self.count = 0

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        def call(*given: Any, **options: Any) -> Tensor:
            self.count += sum(x.shape == (NUM_TOKENS, VOCAB) for x in given if isinstance(x, Tensor))
            return getattr(cast(ModuleType, reference), name)(*given, **options)

        return call


def costs(asked: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, group: dist.ProcessGroup) -> list[int]:
    """Rows, bytes that a rank gives away for a token, collectives, reads."""
    backend, sent, rows = Reads(), [], []

    def gather(parts: list[Tensor], mine: Tensor, group: dist.ProcessGroup) -> None:
        rows.append(mine.shape[0])
        sent.append(mine.nbytes)
        for part in parts:
            part.copy_(mine)

    monkeypatch.setattr(dist, "all_gather", gather)
    monkeypatch.setattr(dist, "all_reduce", lambda count, group: sent.append(count.nbytes))
    monkeypatch.setattr(token_statistics, "get_backend", lambda *_: cast(Backend, backend))
    logits = torch.randn(NUM_TOKENS, VOCAB)
    logprob_entropy(
        logits,
        torch.zeros(NUM_TOKENS, dtype=torch.int64),
        extras=tuple(name for name in asked if name in EXTRAS),
        reference_logits=logits.sin() if "kl" in asked else None,
        group=group,
    )
    assert len(rows) == 1
    return [rows[0], sum(sent) // NUM_TOKENS, len(sent), backend.count]


class TwoRanks:
    def size(self) -> int:
        return 2


def test_what_each_result_costs(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = cast(dist.ProcessGroup, TwoRanks())
    table = cells(repository, "| asked for | rows | bytes a token and rank | collectives | reads of [N, V] |")
    base = costs((), monkeypatch, group)
    (first, *said), *others = table
    assert names(first) == BASE
    assert [int(cell) for cell in said] == base
    for asked, *added in others:
        found = costs(names(asked), monkeypatch, group)
        assert [int(cell) for cell in added] == [a - b for a, b in zip(found, base, strict=True)], asked
    assert {name for asked, *_ in others for name in names(asked)} == {*EXTRAS, "kl"}


def test_every_extra_has_its_formula(repository: Path) -> None:
    table = cells(repository, "| name | formula | what to know |")
    assert [names(row[0])[0] for row in table] == list(EXTRAS)


def test_every_path_of_the_bench_is_there(repository: Path) -> None:
    table = cells(repository, "| path | from | to |")
    assert {names(row[0])[0]: tuple(row[2].split(", ")) for row in table} == {
        name: path.outputs for name, path in PATHS.items()
    }
