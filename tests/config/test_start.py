"""A mistake costs no start-up: what ``megaent train`` has imported when it refuses, and says first."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.byte_tokenizer import ROWS, save_tokenizer
from support.real_shapes import REAL, save_shape

# Third-party packages that a refusal may have cost; everything else waits until it is needed.
ALLOWED = {"antlr4", "attr", "hydra", "hydra_plugins", "omegaconf", "packaging", "yaml", "_yaml"}

_REFUSED = """
import sys
before = {name.partition(".")[0] for name in sys.modules}
from megaent.cli import main
code = main(sys.argv[1:])
known = sys.stdlib_module_names | before | {"megaent", "megaent_configs"}
extra = sorted({name.partition(".")[0] for name in sys.modules} - known)
print(f"code {code}; imported {' '.join(extra)}")
"""


def refused(*words: str) -> tuple[list[str], str]:
    """The third-party packages that were imported, and what was said on stdout before."""
    done = subprocess.run(
        [sys.executable, "-c", _REFUSED, *words], capture_output=True, text=True, timeout=120, check=True
    )
    *said, last = done.stdout.splitlines()
    assert last.startswith("code "), done
    assert not last.startswith("code 0"), done
    return last.partition("imported ")[2].split(), "\n".join(said)


@pytest.mark.parametrize(
    "words",
    [
        ("no_such_key=1",),
        ("experiment=demo", "rollout.prompts_per_stp=4"),
        ("experiment=demo", "steps=many"),
        ("experiment=demo", "method=no_such_method"),
        ("experiment=demo", "method.no_such_option=1"),
        ("experiment=demo", "optim.minibatches=99"),
        ("model.path=nowhere", "data.path=nowhere.jsonl"),
        ("model.path={repository}/docs", "data.path={repository}/README.md"),
        ("experiment=demo", "parallel.tensor_model_parallel_size=3"),
    ],
    ids=" ".join,
)
def test_a_refusal_imports_hydra_and_nothing_heavier(repository: Path, words: tuple[str, ...]) -> None:
    given = [word.format(repository=repository) for word in words]
    imported, said = refused("train", *given)
    assert {name for name in imported if "cython" not in name} <= ALLOWED
    assert said == "reading the configuration"


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not readable JSON"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"cut"),
            "model.safetensors cannot be read",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "merge the adapter"),
    ],
)
def test_a_bad_model_folder_costs_no_import(
    repository: Path, tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = save_shape(tmp_path / "model", REAL["qwen2.5"] | {"vocab_size": ROWS})
    config = (folder / "config.json").read_text()
    save_tokenizer(folder)
    (folder / "config.json").write_text(config)
    words = ("train", f"model.path={folder}", f"data.path={repository}/README.md")
    spoil(folder)
    imported, said = refused(*words)
    assert {name for name in imported if "cython" not in name} <= ALLOWED
    assert said == "reading the configuration"
    assert says in complaint(*words)


def complaint(*words: str) -> str:
    """What is said on stderr, in one line."""
    done = subprocess.run(
        [sys.executable, "-m", "megaent", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 4, done
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_an_unknown_command_imports_nothing() -> None:
    assert refused("trian")[0] == []
