"""A sealed folder is whole or absent, whoever makes it and however often."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from megaent.small_models.sealed_folder import SEAL, is_intact, make_sealed


def fill(folder: Path) -> None:
    (folder / "weights").write_text("1 2 3")
    (folder / "sub").mkdir()
    (folder / "sub" / "words").write_text("a b")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_seal_is_what_sha256sum_checks(tmp_path: Path) -> None:
    assert make_sealed(tmp_path / "made", fill)
    checked = subprocess.run(["sha256sum", "-c", SEAL], cwd=tmp_path / "made", capture_output=True, text=True)
    assert checked.returncode == 0
    assert sorted(checked.stdout.split("\n")[:-1]) == ["sub/words: OK", "weights: OK"]


def test_an_intact_folder_is_not_made_again(tmp_path: Path) -> None:
    make_sealed(tmp_path / "made", fill)

    def fail(folder: Path) -> None:
        raise AssertionError("must not be called")

    assert not make_sealed(tmp_path / "made", fail)


def test_any_damage_is_noticed_and_mended(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    damages = [
        lambda: (folder / "weights").write_text("1 2 4"),
        lambda: (folder / "weights").unlink(),
        lambda: (folder / SEAL).unlink(),
        lambda: (folder / SEAL).write_text(""),
        lambda: (folder / SEAL).write_bytes(b"\xff\xfe nonsense"),
    ]
    make_sealed(folder, fill)
    for damage in damages:
        damage()
        assert not is_intact(folder)
        assert make_sealed(folder, fill)
        assert is_intact(folder)
        assert names(tmp_path) == ["made"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        make_sealed(tmp_path / "made", fail)
    assert names(tmp_path) == []


def test_concurrent_makers_end_with_one_whole_folder(tmp_path: Path) -> None:
    gate = threading.Barrier(4)

    def slowly(folder: Path) -> None:
        fill(folder)
        gate.wait(timeout=30)

    makers = [threading.Thread(target=make_sealed, args=(tmp_path / "made", slowly)) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(timeout=30)
    assert is_intact(tmp_path / "made")
    assert names(tmp_path) == ["made"]
