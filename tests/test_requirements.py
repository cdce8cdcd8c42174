"""What pyproject.toml asks for, what the constraints pin, and what the lower ends of the ranges really do."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

CONSTRAINTS = {
    "3.11": "constraints-cpu.txt",
    "3.12": "constraints-cpu-py312.txt",
    "3.13": "constraints-cpu-py312.txt",
}
# torch's lower end alone is gigabytes, and megatron-core is tested in the versions that there are.
NOT_FETCHED = ("megatron-core", "torch")

IMPORT_EVERYTHING = """
import importlib, pkgutil, megaent
from megaent.ops.backend import available_backends

unbuilt = {f"megaent.ops.{name}" for name in ("cpu", "cuda", "triton") if name not in available_backends()}
for module in pkgutil.walk_packages(megaent.__path__, "megaent."):
    if module.name not in unbuilt and not module.name.startswith("megaent._"):
        importlib.import_module(module.name)
import matplotlib, tensorboard, transformers
print(transformers.__version__, transformers.__file__)
"""


def requirements(repository: Path, python: str) -> list[Requirement]:
    """Of a machine that trains, under this Python."""
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    asked = [Requirement(line) for line in lines]
    return [each for each in asked if each.marker is None or each.marker.evaluate({"python_version": python})]


def lower_end(requirement: Requirement) -> str:
    """The version of its ``>=`` or ``==``."""
    (version,) = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
    return version


@pytest.mark.parametrize("python", CONSTRAINTS)
def test_every_pin_lies_in_its_range(repository: Path, python: str) -> None:
    lines = (repository / CONSTRAINTS[python]).read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    asked = requirements(repository, python)
    assert [each.name for each in asked].count("megatron-core") == 1
    for each in asked:
        assert each.specifier.contains(pins[each.name]), f"{each} and the pin {pins[each.name]}"


@pytest.mark.full
def test_everything_imports_with_the_lower_ends_of_the_ranges(repository: Path, tmp_path: Path) -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    asked = [each for each in requirements(repository, python) if each.name not in (*NOT_FETCHED, "numpy")]
    wanted = {each.name: lower_end(each) for each in asked}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-qq", "--no-deps"]
    pins = [f"{name}=={version}" for name, version in wanted.items()]
    subprocess.run([*pip, "--target", str(tmp_path), *pins], check=True, timeout=240)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORT_EVERYTHING],
        env=os.environ | {"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    version, place = done.stdout.split()
    assert Version(version) == Version(wanted["transformers"])
    assert place == str(tmp_path / "transformers" / "__init__.py")
