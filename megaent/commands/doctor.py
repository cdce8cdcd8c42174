"""What this machine has and lacks: ``megaent doctor``.

Nothing is imported to look at it: a broken Transformer Engine raises when imported, a package that shares
apex's name would run, and torch alone takes two seconds. Installed versions, files on the disk and the
driver's own program are asked instead.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megaent import config_folder
from megaent.errors import MissingDependency

State = Literal["ok", "optional", "missing"]

_TRAIN = "./scripts/setup, or pip install 'megaent[train]'"
_GPU = "pip install 'megaent[gpu]'"
_GPU_ONLY = "of use on a machine with CUDA only: leave it out here"
_APEX = (
    "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation git+https://github.com/NVIDIA/apex "
    "(the index's package named apex is another one)"
)
_SGLANG = "./scripts/setup_sglang (an environment of its own)"

_Release = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A Python and the megatron-core that runs on it: pyproject.toml's two lines."""

    python: str
    megatron: tuple[_Release, _Release]  # from, below
    transformer_engine: tuple[_Release, _Release]
    brings: str


PREVIOUS = Pair(
    python="3.11",
    megatron=((0, 16, 1), (0, 16, 2)),
    transformer_engine=((2, 9), (2, 12)),
    brings="megatron-core 0.16.1, which loads the same checkpoints and saves them",
)
CURRENT = Pair(
    python="3.12 or 3.13",
    megatron=((0, 19, 2), (0, 20)),
    transformer_engine=((2, 9), (2, 21)),
    brings="megatron-core 0.19, Transformer Engine up to 2.20 and torch 2.14, which is also SGLang's",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. ``missing`` stops ``megaent train``; ``optional`` is absent and does no harm."""

    name: str
    state: State
    found: str
    fix: str = ""  # the command that adds it, or why it may stay away


def doctor(root: Path | None = None) -> list[Check]:
    """Look at the machine; ``root`` is where ``.venv-sglang`` would be (the folder above the package)."""
    devices = _cuda_devices()
    gpu_fix = _GPU if devices else _GPU_ONLY
    pair, other = (PREVIOUS, CURRENT) if sys.version_info < (3, 12) else (CURRENT, PREVIOUS)
    return [
        _python(),
        _pair(pair, other),
        _package("torch", within=((2, 11), (2, 15)), fix=_TRAIN),
        _package("numpy", within=((1,), (2, 4)), fix=_TRAIN),
        _package("megatron-core", within=pair.megatron, fix=_TRAIN),
        _package("transformers", within=((5, 19), (6,)), fix=_TRAIN),
        _package("hydra-core", within=((1, 3), (1, 4)), fix=_TRAIN),
        _package("math-verify", within=((0, 9), (1,)), fix=_TRAIN),
        _configs(),
        _cuda(devices),
        _package("transformer-engine", within=pair.transformer_engine, fix=gpu_fix, needed=False),
        _package("triton", within=((3,), (4,)), fix=gpu_fix, needed=False),
        _apex(_APEX if devices else _GPU_ONLY),
        _program("C++ compiler", ("c++", "g++", "clang++"), fix="apt install g++"),
        _program("CUDA compiler", ("nvcc",), fix="./scripts/setup_nvcc" if devices else _GPU_ONLY),
        _cpp_ops(),
        _cuda_ops("./scripts/build_cuda (needs nvcc)" if devices else _GPU_ONLY),
        _backend(),
        _sglang(root or Path(__file__).parents[2]),
    ]


def render(checks: Sequence[Check]) -> str:
    """One line a check, aligned; what is not there is followed by the command that adds it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<8}  {check.name:<{width}}  {check.found}")
        if check.fix and check.state != "ok":
            lines.append(f"{'':<8}  {'':<{width}}  -> {check.fix}")
    return "\n".join(lines)


def exit_code(checks: Sequence[Check]) -> int:
    """0 unless something that training needs is missing."""
    return MissingDependency.exit_code if any(check.state == "missing" for check in checks) else 0


# ---------------------------------------------------------------- single checks


def _python() -> Check:
    version = sys.version_info
    fits = (3, 11) <= version[:2] < (3, 14)
    return Check(
        name="Python",
        state="ok" if fits else "missing",
        found=f"{version.major}.{version.minor}.{version.micro} at {sys.executable}",
        fix="MEGAENT_PYTHON=/path/to/python3.12 ./scripts/setup (3.11, 3.12 or 3.13)",
    )


def _pair(pair: Pair, other: Pair) -> Check:
    """Which of the two is in use, and what the other would bring."""
    here = f"Python {pair.python} with megatron-core {_dotted(pair.megatron[0])}"
    there = f"Python {other.python} would bring {other.brings} (./scripts/setup --other adds it)"
    return Check(name="pair", state="ok", found=f"{here}; {there}")


def _package(name: str, *, within: tuple[_Release, _Release], fix: str, needed: bool = True) -> Check:
    """Whether a distribution is installed in the wanted range, from its metadata alone."""
    absent: State = "missing" if needed else "optional"
    at_least, below = within
    wanted = f"wanted {_dotted(at_least)} or later, below {_dotted(below)}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, state=absent, found=f"not installed, {wanted}", fix=fix)
    if not at_least <= _release(version) < below:
        return Check(name=name, state=absent, found=f"{version}, {wanted}", fix=fix)
    return Check(name=name, state="ok", found=version)


def _configs() -> Check:
    try:
        folder = config_folder()
    except FileNotFoundError as error:
        return Check(name="configurations", state="missing", found=str(error))
    count = sum(1 for _ in folder.rglob("*.yaml"))
    return Check(
        name="configurations", state="ok" if count else "missing", found=f"{count} files in {folder}"
    )


def _cuda_devices() -> list[str]:
    """What the driver's own program reports; none where it is absent or refuses."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ["--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(
            [program, *query], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (subprocess.SubprocessError, OSError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in said.splitlines()]
    return [_device(*row) for row in rows if len(row) == 3]


def _device(name: str, capability: str, mebibytes: str) -> str:
    memory = f", {float(mebibytes) / 1024:.0f} GiB" if mebibytes.isdecimal() else ""
    return f"{name} (sm_{capability.replace('.', '')}{memory})"


def _cuda(devices: list[str]) -> Check:
    if not devices:
        return Check(name="CUDA", state="optional", found="no device; everything runs on the CPU")
    if _built_for_cuda():
        return Check(name="CUDA", state="ok", found=", ".join(devices))
    return Check(
        name="CUDA",
        state="optional",
        found=f"{', '.join(devices)}, but the installed torch is built without CUDA",
        fix="MEGAENT_TORCH_INDEX=<index of PyTorch's CUDA builds> ./scripts/setup",
    )


def _built_for_cuda() -> bool:
    """Read off torch's version file, which is Python: ``cuda: Optional[str] = '13.0'``."""
    spec = importlib.util.find_spec("torch")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    files = [Path(folder) / "version.py" for folder in folders]
    return any(re.search(r"^cuda\b.*= *['\"]", file.read_text(), re.M) for file in files if file.exists())


def _apex(fix: str) -> Check:
    """NVIDIA's apex is the one with ``optimizers`` and the extension ``amp_C``."""
    spec = importlib.util.find_spec("apex")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    has_optimizers = any((Path(folder) / "optimizers").is_dir() for folder in folders)
    has_extension = importlib.util.find_spec("amp_C") is not None
    if has_optimizers and has_extension:
        return Check(name="apex", state="ok", found="apex.optimizers and amp_C")
    found = "not installed"
    if has_optimizers:
        found = "installed without its extension amp_C"
    elif spec is not None:
        found = "another package of that name"
    return Check(name="apex", state="optional", found=f"{found}; Megatron uses torch's optimizer", fix=fix)


def _program(name: str, programs: Sequence[str], *, fix: str) -> Check:
    paths = [path for path in map(shutil.which, programs) if path]
    if paths:
        return Check(name=name, state="ok", found=paths[0])
    return Check(name=name, state="optional", found=f"no {' or '.join(programs)}", fix=fix)


def _cpp_ops() -> Check:
    if importlib.util.find_spec("megaent._C") is None:
        return Check(
            name="C++ ops",
            state="optional",
            found="not built; the backend reference takes their place",
            fix="./scripts/build_ops (needs a C++ compiler)",
        )
    return Check(name="C++ ops", state="ok", found="built; `megaent bench ops` tells their instruction level")


def _cuda_ops(fix: str) -> Check:
    spec = importlib.util.find_spec("megaent._CUDA")
    if spec is None:
        return Check(name="CUDA ops", state="optional", found="not built; no backend cuda", fix=fix)
    return Check(name="CUDA ops", state="ok", found=f"{spec.origin}; taken where backend=cuda is named")


def _backend() -> Check:
    """The rule of megaent.ops.backend, applied to what is on the disk."""
    needs = {"cpu": "megaent._C", "triton": "triton", "cuda": "megaent._CUDA"}
    there = ["reference", *(name for name, module in needs.items() if importlib.util.find_spec(module))]
    asked = os.environ.get("MEGAENT_OPS_BACKEND")
    if not asked:
        usual = "cpu" if "cpu" in there else "reference"
        found = f"{usual} on a CPU, reference on a card (of {', '.join(there)})"
        return Check(name="ops", state="ok", found=found)
    return Check(
        name="ops",
        state="ok" if asked in there else "missing",
        found=f"{asked}, by MEGAENT_OPS_BACKEND (of {', '.join(there)})",
        fix="unset MEGAENT_OPS_BACKEND, or name one that is there",
    )


def _sglang(root: Path) -> Check:
    infos = sorted((root / ".venv-sglang").glob("lib/python*/site-packages/sglang-*.dist-info"))
    if infos:
        version = infos[-1].name.removeprefix("sglang-").removesuffix(".dist-info")
        return Check(name="SGLang", state="ok", found=f"{version} in {root / '.venv-sglang'}")
    return Check(
        name="SGLang",
        state="optional",
        found="no .venv-sglang; the embedded engine needs none",
        fix=_SGLANG,
    )


def _release(version: str) -> tuple[int, ...]:
    """``2.13.0+cpu`` -> ``(2, 13, 0)``; what is not a number ends it."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
