"""The tree keeps its shape: where packages are, how long things may be, what no file may mention."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Over the limit of 60 lines a function and 400 a file, each with the sentence that excuses it.
LONG_FUNCTIONS: dict[str, str] = {}
LONG_FILES: dict[str, str] = {}

_IGNORED = {"build", "runs", "models", "__pycache__", "node_modules"}
_TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".cpp", ".h", ".cu", ".sh", ""}
_TEXT |= {".js", ".css"}


def source_files(root: Path) -> Iterator[Path]:
    """Every text file of the tree, leaving out what .gitignore does."""
    for path in sorted(root.iterdir()):
        if path.is_dir():
            # .ci is the one hidden folder that belongs to the tree.
            hidden = path.name.startswith(".") and path.name != ".ci"
            if not (hidden or path.name in _IGNORED or path.suffix == ".egg-info"):
                yield from source_files(path)
        elif path.suffix in _TEXT and path.name != ".git":
            yield path


def library_files(root: Path) -> list[Path]:
    return sorted((root / "megaent").rglob("*.py"))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize(
    "folder", ["scripts", "configs", "benchmarks", "csrc", "kernels", "tests", "docs", "findings"]
)
def test_folders_beside_the_library_are_no_packages(repository: Path, folder: str) -> None:
    """A package named ``kernels`` or ``configs`` would shadow others of that name."""
    assert list((repository / folder).glob("__init__.py")) == []


def test_no_file_is_named_for_being_a_drawer(repository: Path) -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    found = [path for path in source_files(repository) if path.stem in drawers]
    assert found == [], "a function lives with the noun it serves"


def test_every_module_states_its_idea(repository: Path) -> None:
    files = [
        *library_files(repository),
        *(repository / "kernels").rglob("*.py"),
        *(repository / "tests").rglob("*.py"),
    ]
    silent = [str(path) for path in files if ast.get_docstring(ast.parse(path.read_text())) is None]
    assert silent == []


def test_functions_and_files_stay_short(repository: Path) -> None:
    too_long = set()
    for path in library_files(repository):
        name, text = str(path.relative_to(repository)), path.read_text()
        if text.count("\n") > 400:
            too_long.add(name)
        for node in functions(ast.parse(text)):
            if (node.end_lineno or 0) - node.lineno + 1 > 60:
                too_long.add(f"{name}::{node.name}")
    assert too_long == LONG_FUNCTIONS.keys() | LONG_FILES.keys(), "shorten it, or state the reason at the top"
    assert all((LONG_FUNCTIONS | LONG_FILES).values()), "each exception needs its reason"


def test_no_file_names_a_machine_or_a_package_index(repository: Path) -> None:
    # Put together here, so that this file does not find itself.
    banned = ["/wo" + "rk/", "/ro" + "ot/", "/opt/" + "wheels", "py" + "pi.org", "pythonhosted" + ".org"]
    banned += ["download.py" + "torch.org", "registry.np" + "mjs.org"]
    found = [
        f"{path.relative_to(repository)}: {word}"
        for path in source_files(repository)
        for word in banned
        if word in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert found == []


def test_pyproject_lists_every_package(repository: Path) -> None:
    with (repository / "pyproject.toml").open("rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(repository) for path in library_files(repository)}
    assert listed == {".".join(folder.parts) for folder in folders} | {"megaent_configs", "megaent_kernels"}
    assert [folder for folder in folders if not (repository / folder / "__init__.py").exists()] == []


@pytest.mark.full
def test_the_wheel_holds_every_module_and_configuration(repository: Path, tmp_path: Path) -> None:
    build = (
        "import sys; from setuptools import build_meta; "
        "print(build_meta.build_wheel(sys.argv[1], {'--build-option': ['--quiet']}))"
    )
    tree = tmp_path / "tree"
    for path in source_files(repository):
        copy = tree / path.relative_to(repository)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=tree, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    configs = {
        f"megaent_configs/{p.relative_to(tree / 'configs')}" for p in (tree / "configs").rglob("*.yaml")
    }
    kernels = {str(p.relative_to(tree / "kernels")) for p in (tree / "kernels").rglob("*.py")}
    assert configs
    assets = {f"megaent/report/heat_map.{kind}" for kind in ("js", "css")}
    assert held == configs | kernels | assets | {str(p.relative_to(tree)) for p in library_files(tree)}
