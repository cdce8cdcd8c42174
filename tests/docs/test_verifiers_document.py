"""docs/verifiers.md: every example runs, every verifier has one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.isolation import given_up

from megaent.reward.reward import GRADERS
from megaent.sandbox import seccomp

OF_TASKS = {"final_number", "last_result", "first_integer"}  # which have no options to name them


def document(repository: Path) -> str:
    return (repository / "docs" / "verifiers.md").read_text(encoding="utf-8")


@pytest.fixture
def server(repository: Path, tmp_path: Path) -> Iterator[str]:
    program = [sys.executable, str(repository / "tests/reward/stand_in_verifier.py"), str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/grade"
        process.kill()


@pytest.mark.full
def test_its_examples_run(repository: Path, server: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is missing: `pip install math-verify`")
    pytest.importorskip(
        "reasoning_gym", reason="reasoning-gym is missing: `pip install reasoning-gym==0.1.25`"
    )
    names: dict[str, object] = {"WITHOUT": given_up(), "SERVER": server}
    programs = re.findall(r"```python\n(.*?)\n```$", document(repository), re.DOTALL | re.MULTILINE)
    for program in programs:
        exec(compile(program, "verifiers.md", "exec"), names)
    used = "".join(programs)
    assert all(f'make_reward("{name}' in used for name in GRADERS.keys() - OF_TASKS)


def test_it_lists_every_verifier(repository: Path) -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", document(repository), re.MULTILINE)) == GRADERS.keys() - OF_TASKS


def test_it_counts_the_system_calls(repository: Path) -> None:
    (told,) = re.findall(r"(\d+) allowed system calls", document(repository))
    assert int(told) == len(seccomp._ALLOWED) + 6  # open, openat, clone, tgkill, prlimit64, ioctl
