"""docs/shards.md: its examples run, DALI's in the environment that has it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest


def programs(repository: Path) -> list[str]:
    text = (repository / "docs" / "shards.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


def test_the_first_example_runs(repository: Path, tmp_path: Path) -> None:
    exec(compile(programs(repository)[0], "shards.md", "exec"), {"FOLDER": tmp_path / "shards"})


@pytest.mark.full
def test_both_examples_run_where_dali_is(repository: Path, tmp_path: Path) -> None:
    python = repository / ".venv-dali" / "bin" / "python"
    if not python.exists():
        pytest.skip("NVIDIA DALI is missing: `./scripts/setup_dali`")
    head = f"from pathlib import Path\nFOLDER = Path({str(tmp_path / 'shards')!r})"
    done = subprocess.run(
        [str(python), "-c", "\n".join([head, *programs(repository), "print(sorted(length))"])],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
