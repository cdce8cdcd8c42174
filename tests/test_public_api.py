"""What a user may rely on: the version, the command, and how little a plain installation needs."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import megaent

# What ``pip install megaent`` must be able to import, with torch and numpy beside it and nothing else.
PURE = [
    "megaent.commands.doctor",
    "megaent.errors",
    "megaent.experience",
    "megaent.final_answer",
    "megaent.methods",
    "megaent.report.metrics",
    "megaent.objective",
    "megaent.ops",
    "megaent.randomness",
    "megaent.types",
]

_IMPORT_WITHOUT_EXTRAS = """
import importlib, importlib.abc, pkgutil, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"{name} is not in a plain installation", name=name)

from megaent.ops.backend import available_backends

EXTRAS = set(sys.argv[2].split())
UNBUILT = {f"megaent.ops.{name}" for name in ("cpu", "cuda", "triton") if name not in available_backends()}
sys.meta_path.insert(0, Refuse())
for name in sys.argv[1].split():
    module = importlib.import_module(name)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        if info.name in UNBUILT:
            continue
        importlib.import_module(info.name)
        print(info.name)
"""


def project(repository: Path) -> dict:
    with (repository / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_version_is_the_same_everywhere(repository: Path) -> None:
    assert megaent.__version__ == project(repository)["version"]
    assert f"## [{megaent.__version__}]" in (repository / "CHANGELOG.md").read_text()


def test_importing_megaent_imports_nothing_else() -> None:
    done = run("import sys, megaent; print([m for m in ('torch', 'numpy', 'hydra') if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_a_plain_installation_brings_torch_and_numpy_alone(repository: Path) -> None:
    names = {re.match(r"[\w.-]+", line).group() for line in project(repository)["dependencies"]}  # type: ignore[union-attr]
    assert names == {"torch", "numpy"}


def test_the_mathematics_imports_without_any_extra(repository: Path) -> None:
    extras = {"hydra", "omegaconf", "megatron", "sglang", "ray", "yaml"}
    for lines in project(repository)["optional-dependencies"].values():
        extras |= {re.match(r"[\w.-]+", line).group().replace("-", "_") for line in lines}  # type: ignore[union-attr]
    # torch itself uses these two where they are installed.
    extras -= {"setuptools", "triton"}
    done = run(_IMPORT_WITHOUT_EXTRAS, " ".join(PURE), " ".join(sorted(extras)))
    assert done.returncode == 0, done.stderr
    assert {"megaent.ops.logprob_entropy", "megaent.methods.grpo"} <= set(done.stdout.split())


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="megaent")
    assert command.value == "megaent.cli:main"
    assert callable(command.load())


def test_the_configurations_are_found() -> None:
    assert (megaent.config_folder() / "experiment" / "demo.yaml").is_file()


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "megaent", "--help"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
