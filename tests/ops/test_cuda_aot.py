"""The CUDA kernels compiled for the GPUs they are meant for, on a machine without one.

What the assembler says of each is recorded as a property of the test: registers a thread, bytes spilled.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCHED = ROOT / ".nvcc" / "nvidia" / "cu13" / "bin" / "nvcc"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        shutil.which("nvcc") is None and not FETCHED.exists(),
        reason="no CUDA compiler is here; run `./scripts/setup_nvcc`",
    ),
]

ENTRIES = {"bf16": "13__nv_bfloat16", "fp16": "6__half", "fp32": "f"}
WIDTH = {"bf16": 8, "fp16": 8, "fp32": 4}  # entries in 16 bytes
UNROLL = 4  # vectors that a thread loads before it uses the first


class Report(NamedTuple):
    """What the assembler says of one kernel."""

    registers: int
    spilled: int  # bytes
    stack: int  # bytes


class Compiled(NamedTuple):
    reports: dict[str, Report]  # by the kernel's name in the object
    code: dict[str, list[str]]  # the machine's instructions, by the same names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("kernels")
    command = [ROOT / "scripts" / "build_cuda", "--kernels", made]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return made


@functools.cache
def read(folder: Path, arch: int) -> Compiled:
    said = (folder / f"sm_{arch}.txt").read_text()
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    reports = {
        name: Report(int(registers), int(stores) + int(loads), int(stack))
        for name, stack, stores, loads, registers in re.findall(pattern, said, re.DOTALL)
    }
    command = [disassembler(), "-c", folder / f"sm_{arch}.cubin"]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    sections = re.split(r"^\.text\.(\w+):$", listing, flags=re.MULTILINE)[1:]
    code = dict(zip(sections[::2], map(instructions, sections[1::2]), strict=True))
    return Compiled(reports, code)


def disassembler() -> Path:
    """nvdisasm, which the wheel of Triton carries."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        pytest.skip("nvdisasm comes with Triton, which is not installed; run `pip install triton==3.6.0`")
    return Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"


def instructions(section: str) -> list[str]:
    """Labels and instructions of one kernel, addresses and encodings left out."""
    lines = (re.sub(r"/\*.*?\*/", "", line).strip() for line in section.splitlines())
    return [line for line in lines if re.match(r"\.L_x_\d+:|.*;$", line)]


def loops(code: list[str]) -> list[list[str]]:
    """What lies between a label and a jump back to it."""
    place = {line.removesuffix(":"): i for i, line in enumerate(code) if line.endswith(":")}
    jumps = [(i, re.search(r"BRA.*`\((\.L_x_\d+)\)", line)) for i, line in enumerate(code)]
    return [code[place[m[1]] : i + 1] for i, m in jumps if m and place.get(m[1], i) < i]


def forward(dtype: str, *, aligned: bool = True, moments: bool = False) -> str:
    return f"logits_stats_kernelI{ENTRIES[dtype]}Lb{aligned:d}ELb{moments:d}E"


def backward(dtype: str, *, aligned: bool = True) -> str:
    return f"logits_stats_backward_kernelI{ENTRIES[dtype]}Lb{aligned:d}E"


def named(compiled: Compiled, part: str) -> str:
    (name,) = [name for name in compiled.reports if part in name]
    return name


@pytest.mark.parametrize("arch", [80, 90])
def test_nothing_is_spilled(folder: Path, arch: int, record_property) -> None:
    compiled = read(folder, arch)
    assert len(compiled.reports) == 3 * 2 * 2 + 3 * 2 + 4  # statistics, gradient, the two that merge
    for name, report in compiled.reports.items():
        record_property(f"registers {name}", report.registers)
        assert report.spilled == 0, name
        assert report.stack == 0, name


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", ENTRIES)
def test_statistics_wait_for_memory_and_not_for_instructions(folder: Path, arch: int, dtype: str) -> None:
    """Four loads of 16 bytes, no shuffle, one exponential and at most 12 instructions an entry.

    An H200 copies 4.3 TB/s, and its 132 x 128 lanes do 3.0e13 instructions a second: 14 an entry of bf16.
    """
    compiled = read(folder, arch)
    name = named(compiled, forward(dtype))
    assert compiled.reports[name].registers <= 40  # 1536 threads a multiprocessor and more
    wide = [loop for loop in loops(compiled.code[name]) if sum("LDG.E" in line for line in loop) == UNROLL]
    assert len(wide) == 1
    (loop,) = wide
    num_entries = UNROLL * WIDTH[dtype]
    assert sum(".128" in line and "LDG.E" in line for line in loop) == UNROLL
    assert not any("SHFL" in line or "BAR" in line for line in loop)
    # One more where the maximum rises.
    assert sum("MUFU.EX2" in line for line in loop) == num_entries + 1
    assert len(loop) <= 12 * num_entries


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("dtype", ENTRIES)
def test_gradients_move_16_bytes_at_once(folder: Path, arch: int, dtype: str) -> None:
    code = read(folder, arch).code[named(read(folder, arch), backward(dtype))]
    for what in ("LDG.E", "STG.E"):
        assert sum(what in line and ".128" in line for line in code) == UNROLL
    unaligned = read(folder, arch).code[named(read(folder, arch), backward(dtype, aligned=False))]
    assert not any(".128" in line and "LDG" in line for line in unaligned)


@pytest.mark.parametrize("arch", [80, 90])
def test_the_moments_cost_two_instructions_and_no_load(folder: Path, arch: int) -> None:
    """A square, and a product with its sum: 3 more an entry with what moves them about."""
    compiled = read(folder, arch)
    lengths = [
        max(map(len, loops(compiled.code[named(compiled, forward("bf16", moments=moments))])))
        for moments in (False, True)
    ]
    assert lengths[1] - lengths[0] <= 4 * UNROLL * WIDTH["bf16"]
