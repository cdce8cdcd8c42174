"""The doctor finds what is there, names what is not with its command, and imports nothing to look."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from megaent.commands.doctor import CURRENT, PREVIOUS, Check, Pair, doctor, exit_code, render
from megaent.ops.backend import available_backends, get_backend


def found(checks: list[Check], name: str) -> Check:
    (check,) = [check for check in checks if check.name == name]
    return check


def install(folder: Path, name: str, version: str) -> None:
    """Metadata as pip leaves it; the doctor reads nothing else of a package."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_this_environment_can_train() -> None:
    checks = doctor()
    assert [check for check in checks if check.state == "missing"] == []
    assert exit_code(checks) == 0


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("megatron-core", "0.17.0"),
        ("torch", "2.10.1+cu130"),
        ("torch", "2.15.0"),
        ("numpy", "2.4.0"),
        ("transformers", "4.57.1"),
    ],
)
def test_a_version_out_of_range_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str
) -> None:
    install(tmp_path, name, version)
    monkeypatch.syspath_prepend(tmp_path)
    checks = doctor()
    assert found(checks, name).state == "missing"
    assert version in found(checks, name).found
    assert "wanted" in found(checks, name).found
    assert exit_code(checks) != 0


def test_the_pair_in_use_is_named_and_what_the_other_would_bring() -> None:
    mine, other = ("3.11", "0.19") if sys.version_info < (3, 12) else ("3.12 or 3.13", "0.16.1")
    said = found(doctor(), "pair").found
    assert said.startswith(
        f"Python {mine} with megatron-core {importlib.metadata.version('megatron-core')}; "
    )
    assert f"would bring megatron-core {other}" in said


@pytest.mark.parametrize("pair", [PREVIOUS, CURRENT])
def test_the_doctor_and_pyproject_ask_for_the_same_versions(repository: Path, pair: Pair) -> None:
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    environment = {"python_version": "3.11" if pair is PREVIOUS else "3.12"}
    asked = [Requirement(line) for line in (*extras["train"], *extras["gpu"])]
    ranges = {
        each.name: each.specifier
        for each in asked
        if each.marker is None or each.marker.evaluate(environment)
    }
    for name, (at_least, below) in (
        ("megatron-core", pair.megatron),
        ("transformer-engine", pair.transformer_engine),
    ):
        assert ranges[name].contains(".".join(map(str, at_least)))
        assert not ranges[name].contains(".".join(map(str, below)))


def test_a_package_that_only_shares_the_name_of_apex_is_told_apart_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "another package" in found(doctor(), "apex").found
    (tmp_path / "apex" / "optimizers").mkdir()
    assert "without its extension" in found(doctor(), "apex").found
    (tmp_path / "amp_C.py").write_text("raise RuntimeError('imported')")
    assert found(doctor(), "apex").state == "ok"


def test_an_sglang_environment_is_found_without_being_entered(tmp_path: Path) -> None:
    assert found(doctor(tmp_path), "SGLang").state == "optional"
    install(tmp_path / ".venv-sglang" / "lib" / "python3.11" / "site-packages", "sglang", "0.5.23")
    assert found(doctor(tmp_path), "SGLang").found.startswith("0.5.23 ")


def test_a_machine_without_a_compiler_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    check = found(doctor(), "C++ compiler")
    assert (check.state, check.fix) == ("optional", "apt install g++")


def test_the_backend_it_names_is_the_one_that_ops_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEGAENT_OPS_BACKEND", raising=False)
    taken = get_backend().__name__.rpartition(".")[2]
    assert found(doctor(), "ops").found == (
        f"{taken} on a CPU, reference on a card (of {', '.join(available_backends())})"
    )
    assert get_backend(device="cuda").__name__.endswith(".reference")


@pytest.mark.parametrize(("name", "state"), [("reference", "ok"), ("fpga", "missing")])
def test_a_backend_named_by_the_environment_must_be_there(
    monkeypatch: pytest.MonkeyPatch, name: str, state: str
) -> None:
    monkeypatch.setenv("MEGAENT_OPS_BACKEND", name)
    check = found(doctor(), "ops")
    assert (check.state, check.found.partition(",")[0]) == (state, name)


def driver(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """A program in the driver's place that prints what the real one prints for a query."""
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"{line}\n" for line in lines))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_cards_are_named_as_the_driver_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 9.0, 81559'")
    said = found(doctor(), "CUDA").found
    assert said.startswith("NVIDIA H100 80GB HBM3 (sm_90, 80 GiB)")
    assert ("built without CUDA" in said) == (torch.version.cuda is None)


def test_a_driver_without_a_card_is_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver(tmp_path, monkeypatch, "echo 'No devices were found'", "exit 6")
    assert found(doctor(), "CUDA").found == "no device; everything runs on the CPU"


def test_whatever_is_missing_comes_with_its_command() -> None:
    checks = [
        Check(name="torch", state="ok", found="2.13.0", fix="unused"),
        Check(name="megatron-core", state="missing", found="not installed", fix="./scripts/setup"),
    ]
    assert render(checks).splitlines() == [
        "ok        torch          2.13.0",
        "missing   megatron-core  not installed",
        "                         -> ./scripts/setup",
    ]
    assert exit_code(checks) == 8
    assert exit_code(checks[:1]) == 0


def test_looking_imports_no_heavy_package() -> None:
    heavy = "('torch', 'numpy', 'megatron', 'transformers', 'transformer_engine', 'triton', 'hydra', 'apex')"
    look = "import sys; from megaent.commands.doctor import doctor; doctor()"
    code = f"{look}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
