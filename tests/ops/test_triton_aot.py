"""Every Triton kernel compiled for the GPUs it is meant for, on a machine without one.

What the compiler says of each is recorded as a property of the test: registers a thread, bytes spilled.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; run `pip install triton==3.6.0`",
)

TYPES = {
    "target_ptr": "*i64",
    "norms_ptr": "*fp32",
    "kl_stats_ptr": "*fp32",
    "grad_kl_ptr": "*fp32",
    "out_ptr": "*fp32",
    "part_ptr": "*fp32",
    "stats_ptr": "*fp32",
    "grad_log_prob_ptr": "*fp32",
    "grad_entropy_ptr": "*fp32",
    "scale": "fp32",
    "inv_temperature": "fp32",
}
ENTRIES = {"bf16": 8, "fp16": 8, "fp32": 4}  # in 16 bytes


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier version of the kernels was compiled to says nothing."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel: Any, arch: int, num_warps: int, types: dict[str, str], constants: dict[str, Any]) -> str:
    """The PTX of one specialisation: pointers at multiples of 16 bytes, nothing said of the numbers."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = TYPES | types
    signature = {
        p.name: "constexpr" if p.name in constants else types.get(p.name, "i32") for p in kernel.params
    }
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(signature) if signature[name].startswith("*")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options={"num_warps": num_warps}).asm["ptx"]


def assemble(ptx: str, folder: Path) -> tuple[int, int]:
    """Registers a thread and bytes spilled, as the assembler reports them."""
    from triton import knobs

    (folder / "kernel.ptx").write_text(ptx)
    arch = re.search(r"\.target (sm_\w+)", ptx)
    assert arch
    done = subprocess.run(
        [
            knobs.nvidia.ptxas.path,
            f"-arch={arch[1]}",
            "-v",
            folder / "kernel.ptx",
            "-o",
            folder / "kernel.cubin",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    registers = re.search(r"Used (\d+) registers", done.stderr)
    assert registers, done.stderr
    spilled = re.findall(r"(\d+) bytes spill", done.stderr)
    assert len(spilled) == 2, done.stderr
    return int(registers[1]), sum(map(int, spilled))


def loads_of_16_bytes(ptx: str) -> int:
    return len(re.findall(r"ld\.global\S*\.v4\.b32", ptx))


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "vocab", "moments"),
    [
        ("bf16", 1000, True),
        ("bf16", 151936, False),
        ("bf16", 151936, True),
        ("fp16", 151936, False),
        ("fp32", 151936, True),
    ],
)
def test_forward(arch: int, dtype: str, vocab: int, moments: bool, tmp_path: Path, record_property) -> None:
    from megaent_kernels.logits_stats import logits_stats_fwd_kernel
    from megaent_kernels.tune import forward_launch

    lanes, span, num_warps = forward_launch(vocab)
    assert span % (lanes * ENTRIES[dtype]) == 0
    constants = {"LANES": lanes, "VECTOR": ENTRIES[dtype], "MOMENTS": moments}
    ptx = compiled(logits_stats_fwd_kernel, arch, num_warps, {"z_ptr": f"*{dtype}"}, constants)
    registers, spilled = assemble(ptx, tmp_path)
    record_property("registers", registers)
    assert spilled == 0
    assert registers <= 96  # five programs of 128 threads a multiprocessor
    # One of 16 bytes for each lane of a thread: the loop's; the ragged tile's loads have masks.
    assert loads_of_16_bytes(ptx) == lanes // (32 * num_warps)
    assert "max.NaN.f32" in ptx
    assert "ex2.approx" in ptx


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    ("dtype", "aligned", "has_kl"),
    [
        ("bf16", True, False),
        ("fp16", True, False),
        ("fp32", True, False),
        ("bf16", False, False),
        ("bf16", True, True),
        ("fp32", True, True),
    ],
)
def test_backward(
    arch: int, dtype: str, aligned: bool, has_kl: bool, tmp_path: Path, record_property
) -> None:
    from megaent_kernels.logits_gradient import logits_stats_bwd_kernel
    from megaent_kernels.tune import backward_launch

    block, num_warps = backward_launch(151936)
    vector = ENTRIES[dtype] if aligned else 1
    flags = {"HAS_LOG_PROB": True, "HAS_ENTROPY": True, "HAS_KL": has_kl}
    types = dict.fromkeys(("z_ptr", "out_ptr", "ref_ptr"), f"*{dtype}")
    ptx = compiled(
        logits_stats_bwd_kernel, arch, num_warps, types, {"BLOCK": block, "VECTOR": vector} | flags
    )
    registers, spilled = assemble(ptx, tmp_path)
    record_property("registers", registers)
    assert spilled == 0
    per_thread = block // (32 * num_warps * ENTRIES[dtype]) if aligned else 0
    assert loads_of_16_bytes(ptx) == per_thread * (2 if has_kl else 1)
    assert len(re.findall(r"st\.global\S*\.v4\.b32", ptx)) == per_thread


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("dtype", "aligned"), [("bf16", True), ("fp32", True), ("bf16", False)])
def test_divergence(arch: int, dtype: str, aligned: bool, tmp_path: Path, record_property) -> None:
    from megaent_kernels.divergence import divergence_fwd_kernel
    from megaent_kernels.tune import forward_launch

    lanes, _, num_warps = forward_launch(151936)
    unit = ENTRIES[dtype] if aligned else 1
    constants = {"LANES": lanes, "VECTOR": ENTRIES[dtype], "UNIT": unit}
    types = {"z_ptr": f"*{dtype}", "ref_ptr": f"*{dtype}"}
    ptx = compiled(divergence_fwd_kernel, arch, num_warps, types, constants)
    registers, spilled = assemble(ptx, tmp_path)
    record_property("registers", registers)
    assert spilled == 0
    per_thread = 2 * lanes // (32 * num_warps) if aligned else 0
    assert loads_of_16_bytes(ptx) == per_thread


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("name", ["spans_merge_kernel", "stats_combine_kernel"])
def test_merging(arch: int, name: str, tmp_path: Path, record_property) -> None:
    from megaent_kernels import stats_combine
    from megaent_kernels.tune import COMBINE_ROWS

    kernel = getattr(stats_combine, name)
    ptx = compiled(kernel, arch, COMBINE_ROWS // 32, {}, {"ROWS": COMBINE_ROWS, "MOMENTS": True})
    registers, spilled = assemble(ptx, tmp_path)
    record_property("registers", registers)
    assert spilled == 0


@pytest.mark.parametrize("vector", [4, 8])
def test_lanes_meet_only_after_the_loop(vector: int) -> None:
    """A shuffle inside the loop would make the kernel wait for instructions instead of memory."""
    from megaent_kernels.logits_stats import logits_stats_fwd_kernel

    dtype = "fp32" if vector == 4 else "bf16"
    constants = {"LANES": 512, "VECTOR": vector, "MOMENTS": True}
    ptx = compiled(logits_stats_fwd_kernel, 90, 4, {"z_ptr": f"*{dtype}"}, constants)
    jumps = [match.start() for match in re.finditer(r"bra(?:\.uni)?\s+\$L__BB0_\d+", ptx)]
    first_shuffle = ptx.index("shfl.sync")
    assert jumps
    assert max(*jumps, ptx.rindex(".v4.b32")) < first_shuffle
