"""docs/evaluation.md: its program runs, its commands are ones that can be read."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from megaent.evaluation.estimators import ESTIMATORS


def document(repository: Path) -> str:
    return (repository / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_its_program_runs(repository: Path) -> None:
    programs = re.findall(r"```python\n(.*?)```", document(repository), re.DOTALL)
    assert programs
    for program in programs:
        exec(compile(program, "evaluation.md", "exec"), {})


def test_its_commands_can_be_read(repository: Path) -> None:
    pytest.importorskip("hydra", reason="hydra-core is missing: `pip install hydra-core`")
    from megaent.commands.evaluate import read_words

    lines = re.findall(r"^    megaent evaluate (.*)$", document(repository), re.MULTILINE)
    assert len(lines) == 5
    read = [read_words(shlex.split(re.sub(r"   .*", "", line))) for line in lines]
    assert [command.options.drawn for command in read] == [8, 4, 4, 4, 4]
    assert [len(command.sets) for command in read] == [0, 0, 2, 1, 0]
    assert read[3].overrides == ("rollout=sglang",)
    assert read[4].is_regrade


def test_it_explains_every_estimator(repository: Path) -> None:
    assert set(re.findall(r"^\| `(\S+k)` \|", document(repository), re.MULTILINE)) == set(ESTIMATORS)
