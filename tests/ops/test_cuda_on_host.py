"""The CUDA kernels' own source, compiled for this processor and run against fp64.

``cuda_on_host/`` speaks the part of CUDA that the kernels use, with exponentials as inexact as a GPU's. What
nvcc makes of the source it cannot show: test_cuda_aot.py looks at that.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.compare import assert_as_accurate_as_torch
from support.truth import Statistics, gradients, textbook
from torch import Tensor

from megaent.ops import reference

COMPILER = next(filter(None, map(shutil.which, ("c++", "g++"))), None)
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is here; run `apt install g++`"),
]

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
OPS: Any = torch.ops.megaent_cuda_on_host
NAMES = Statistics._fields
ROWS = [0, 1, 4, 5]  # where they stand in the statistics


@pytest.fixture(scope="module", autouse=True)
def library(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = Path(__file__).resolve().parents[2]
    torch_folder = Path(torch.__file__).parent
    built = tmp_path_factory.mktemp("cuda") / "on_host.so"
    folder = root / "tests" / "ops" / "cuda_on_host"
    words = [
        "-std=c++20",
        "-O2",
        "-fPIC",
        "-shared",
        "-ffp-contract=off",
        "-fno-strict-aliasing",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    words += ["-Wno-unknown-pragmas", "-fvisibility=hidden", "-Wl,-Bsymbolic", "-DUSE_CUDA"]
    words += ["-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{folder}", f"-I{root / 'csrc'}"]
    words += ["-isystem", f"{torch_folder / 'include'}", "-x", "c++", f"{root / 'csrc' / 'logits_stats.cu'}"]
    words += [f"{folder / 'register.cpp'}", "-o", f"{built}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    done = subprocess.run([str(COMPILER), *words], capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    torch.ops.load_library(built)


@pytest.fixture
def backward_fibers() -> Iterator[None]:
    os.environ["MEGAENT_FIBER_ORDER"] = "backward"
    yield
    del os.environ["MEGAENT_FIBER_ORDER"]


def random_case(rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype = torch.float32):
    logits = (3 * torch.randn(num_tokens, vocab, generator=rng, dtype=torch.float64)).to(dtype)
    target = torch.randint(vocab, (num_tokens,), generator=rng)
    return logits, target, torch.randn(2, num_tokens, generator=rng, dtype=torch.float64)


def partial(logits: Tensor, target: Tensor, temperature: float = 1.0, start: int = 0) -> Tensor:
    return OPS.logits_stats(logits, target, start, 1 / temperature, True)


def whole(parts: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    return OPS.stats_combine(list(parts), 1 / temperature)


def gradient(
    logits: Tensor,
    target: Tensor,
    stats: Tensor,
    cotangents: Sequence[Tensor | None],
    temperature: float = 1.0,
    out: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    g, h = (None if c is None else c.float() for c in cotangents)
    result = torch.full_like(logits, torch.nan) if out is None else out
    OPS.logits_stats_backward(logits, target, stats, g, h, start, 1 / temperature, out=result)
    return result


def everything(logits: Tensor, target: Tensor, cotangents: Tensor, temperature: float = 1.0) -> list[Tensor]:
    part = partial(logits, target, temperature)
    stats = whole([part], temperature)
    return [part, stats, gradient(logits, target, stats, list(cotangents), temperature)]


# ---------------------------------------------------------------- values and gradients


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_tokens", "vocab", "temperature"),
    [(15, 7, 1.0), (5, 1000, 0.7), (2, 32003, 1.3), (1, 49152, 1.0), (2, 151936, 1.0)],
)
def test_values_and_gradients(
    rng: torch.Generator, dtype: torch.dtype, num_tokens: int, vocab: int, temperature: float
) -> None:
    logits, target, cotangents = random_case(rng, num_tokens, vocab, dtype)
    _, stats, dz = everything(logits, target, cotangents, temperature)

    def plain(z: Tensor) -> Statistics:
        return textbook(z, target, temperature=temperature)

    for name, mine in zip(NAMES, stats[ROWS], strict=True):
        exact, same = getattr(plain(logits.double()), name), getattr(plain(logits.float()), name)
        assert_as_accurate_as_torch(mine, exact, same, name=name)
    _, (exact,) = gradients(plain, logits.double(), cotangents=list(cotangents))
    _, (same,) = gradients(plain, logits.float(), cotangents=list(cotangents))
    assert dz.dtype == dtype
    if dtype == torch.float32:
        assert_as_accurate_as_torch(dz, exact, same, name="dz")
    else:  # rounded once
        assert_as_accurate_as_torch(dz, exact, exact.to(dtype), factor=1.01, name="dz")


@pytest.mark.parametrize("dtype", DTYPES)
def test_partials_hold_what_the_reference_says(rng: torch.Generator, dtype: torch.dtype) -> None:
    """Row for row, the number of equal maxima among them; several spans are merged."""
    logits, target, _ = random_case(rng, 3, 70001, dtype)
    logits[1, 5:70000:977] = 20.0
    logits[2] = 1.5
    found = partial(logits, target, 0.8)
    exact = reference.logits_stats(logits.double(), target, vocab_start=0, inv_temperature=1.25, moments=True)
    assert torch.equal(found[[0, 1, 4]].double(), exact[[0, 1, 4]])
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("which", ["log_prob", "entropy"])
def test_a_gradient_may_be_absent(rng: torch.Generator, which: str) -> None:
    logits, target, cotangents = random_case(rng, 4, 501)
    given = [cotangents[0] if which == "log_prob" else None, cotangents[1] if which == "entropy" else None]
    dz = gradient(logits, target, whole([partial(logits, target)]), given)
    weights = [c if c is not None else torch.zeros(4, dtype=torch.float64) for c in given]
    _, (exact,) = gradients(lambda z: textbook(z, target), logits.double(), cotangents=weights)
    torch.testing.assert_close(dz.double(), exact, rtol=2e-6, atol=1e-7)


def test_a_certain_target_keeps_the_precision_of_its_gradient() -> None:
    """1 - p far below one unit of fp32 beside 1."""
    lead = torch.tensor([10.0, 30.0, 60.0])
    logits = torch.zeros(3, 300)
    logits[:, 7] = lead
    target = torch.full((3,), 7)
    dz = gradient(logits, target, whole([partial(logits, target)]), [torch.ones(3), None])
    exact = 299 / (lead.double().exp() + 299)
    torch.testing.assert_close(dz[:, 7].double(), exact, rtol=1e-5, atol=0.0)


# ---------------------------------------------------------------- numerics


@pytest.mark.parametrize(("offset", "usual_error"), [(0.0, 0.01), (30.0, 0.5), (-30.0, 0.5)])
def test_small_entropies_keep_their_relative_precision(
    rng: torch.Generator, offset: float, usual_error: float
) -> None:
    """Peaked rows, H down to 1e-23, where ``lse - sum p z`` is noise; entries are multiples of 1/256."""
    leads = torch.linspace(8, 60, 20)
    tail = (2 * torch.randn(20, 9000, generator=rng) * 256).round() / 256
    logits = tail - leads.round()[:, None] - 8.0 + offset
    logits[:, 4321] = offset
    x = logits.double() - logits.double().amax(1, keepdim=True)
    rest = torch.where(x < 0, x.exp(), 0.0).sum(1)
    exact = rest.log1p() - (x.exp() * x).sum(1) / (1 + rest)
    entropy = whole([partial(logits, torch.full((20,), 4321))])[1].double()
    assert float(((entropy - exact) / exact).abs().max()) < 1e-6
    usual = logits.logsumexp(1) - (logits.softmax(1) * logits).sum(1)
    assert float(((usual.double() - exact) / exact).abs().max()) > usual_error


@pytest.mark.parametrize("count", [2, 3, 100])
def test_several_equal_maxima_share_the_probability(count: int) -> None:
    logits = torch.full((1, 40000), -torch.inf)
    logits[0, torch.arange(count) * 383] = 5.0
    stats = whole([partial(logits, torch.tensor([383]))])
    expected = torch.tensor([-math.log(count), math.log(count), 1 / count, 0.0])
    torch.testing.assert_close(stats[ROWS, 0], expected, rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_minus_infinity_and_rows_far_below_zero(rng: torch.Generator, dtype: torch.dtype) -> None:
    logits, target, cotangents = random_case(rng, 4, 3001, dtype)
    logits[0] -= 300.0
    logits[1, 10:] = -torch.inf
    logits[2, :2990] = -torch.inf
    logits[3, ::2] = -torch.inf
    target[:] = torch.tensor([3, 4, 2995, 1])
    _, stats, dz = everything(logits, target, cotangents)
    exact = textbook(logits.double(), target)
    for name, mine in zip(NAMES, stats[ROWS], strict=True):
        torch.testing.assert_close(mine.double(), getattr(exact, name), rtol=2e-6, atol=2e-6)
    assert bool(dz.isfinite().all())
    assert bool((dz[logits == -torch.inf] == 0).all())


def test_one_huge_logit_leaves_no_entropy(rng: torch.Generator) -> None:
    logits, target, cotangents = random_case(rng, 4, 5000)
    logits[:, 4017] = torch.tensor([2e2, 1e4, 1e30, 3e38])
    target[:2] = 4017
    _, stats, dz = everything(logits, target, cotangents, 0.3)
    assert stats[1].tolist() == [0.0] * 4
    assert stats[0, :2].tolist() == [0.0, 0.0]
    assert bool(dz.isfinite().all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 17, 69999])
def test_what_is_not_a_number_stays_none(dtype: torch.dtype, value: float, place: int) -> None:
    """In its row alone; a span of nothing else must not be taken for an empty one."""
    logits = torch.zeros(3, 70000, dtype=dtype)
    logits[1, place] = value
    logits[2, 65536:] = math.nan
    target = torch.zeros(3, dtype=torch.int64)
    _, stats, dz = everything(logits, target, torch.ones(2, 3))
    for result in (stats[0], stats[1], dz.float().sum(1)):
        assert result.isnan().tolist() == [False, True, True]


# ---------------------------------------------------------------- bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [5003, 70001])
def test_bits_do_not_depend_on_batch_or_alignment(
    rng: torch.Generator, dtype: torch.dtype, vocab: int
) -> None:
    logits, target, cotangents = random_case(rng, 7, vocab, dtype)
    together = everything(logits, target, cotangents)
    rows = [everything(logits[i : i + 3], target[i : i + 3], cotangents[:, i : i + 3]) for i in (0, 3, 6)]
    for number, dim in enumerate((1, 1, 0)):
        assert torch.equal(torch.cat([row[number] for row in rows], dim), together[number])
    for shift, width in ((1, 1), (8, 24), (3, 5)):
        wide = torch.full((7, vocab + width), 99.0, dtype=dtype)
        wide[:, shift : shift + vocab] = logits
        found = everything(wide[:, shift : shift + vocab], target, cotangents)
        assert all(map(torch.equal, found, together))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_order_of_threads(
    rng: torch.Generator, dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    """As they would where a barrier is missing."""
    logits, target, cotangents = random_case(rng, 3, 70001, dtype)
    forward = everything(logits, target, cotangents)
    request.getfixturevalue("backward_fibers")
    assert all(map(torch.equal, everything(logits, target, cotangents), forward))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [0, 1])
def test_writing_over_the_logits_changes_no_bit(rng: torch.Generator, dtype: torch.dtype, shift: int) -> None:
    wide, target, cotangents = random_case(rng, 3, 9003 + shift, dtype)
    logits = wide[:, shift:]
    target.clamp_(max=9002)
    stats = whole([partial(logits, target)])
    dz = gradient(logits, target, stats, list(cotangents))
    assert torch.equal(gradient(logits, target, stats, list(cotangents), out=logits), dz)


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("widths", [[50, 50], [3, 97], [40, 59, 1], [0, 60, 40], [60, 40, 0]])
def test_shards_give_what_the_whole_gives(rng: torch.Generator, widths: list[int]) -> None:
    logits, target, cotangents = random_case(rng, 10, 100)
    logits[3, : widths[0]] = -torch.inf
    logits[5] = -300.0
    logits[6] *= 40
    target[3] = int(logits[3].argmax())
    shards = logits.split(widths, dim=1)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    stats = whole([partial(z, target, 0.8, s) for z, s in zip(shards, starts, strict=True)], 0.8)
    exact = textbook(logits.double(), target, temperature=0.8)
    for name, mine in zip(NAMES, stats[ROWS], strict=True):
        torch.testing.assert_close(mine.double(), getattr(exact, name), rtol=2e-6, atol=2e-6)
    parts = [
        gradient(z, target, stats, list(cotangents), 0.8, start=s)
        for z, s in zip(shards, starts, strict=True)
    ]
    _, (dz,) = gradients(
        lambda z: textbook(z, target, temperature=0.8), logits.double(), cotangents=list(cotangents)
    )
    torch.testing.assert_close(torch.cat(parts, 1).double(), dz, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("num_tokens", "vocab"), [(0, 50), (3, 0), (0, 0), (1, 1)])
def test_nothing_is_a_size(num_tokens: int, vocab: int) -> None:
    logits, target = torch.ones(num_tokens, vocab), torch.zeros(num_tokens, dtype=torch.int64)
    part = partial(logits, target)
    assert part.shape == (7, num_tokens)
    assert part[1].tolist() == [float(vocab == 1)] * num_tokens
    assert gradient(logits, target, torch.zeros(4, num_tokens), [None, None]).shape == logits.shape


def test_more_than_2_to_the_31_entries() -> None:
    """Two rows that far apart; what lies between is never touched."""
    distance = 2**31 + 8
    memory = torch.frombuffer(mmap.mmap(-1, 2 * (distance + 1000)), dtype=torch.bfloat16)
    logits = memory.as_strided((2, 1000), (distance, 1))
    logits.copy_(torch.randn(2, 1000))
    target = torch.tensor([3, 999])
    close, cotangents = logits.contiguous(), torch.ones(2, 2)
    expected = everything(close, target, cotangents)
    stats = whole([partial(logits, target)])
    assert torch.equal(stats, expected[1])
    assert torch.equal(gradient(logits, target, stats, list(cotangents), out=logits), expected[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(4, 5).double()}, "logits must be Float or BFloat16 or Half, got Double"),
        ({"logits": torch.zeros(5, 4).T}, "logits must have rows of adjacent entries"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"target must have shape \[4\], got \[3\]"),
        ({"stats": torch.zeros(3, 4)}, r"stats must have shape \[4 or more, 4\], got \[3, 4\]"),
        ({"grad": torch.zeros(4).double()}, "grad_log_prob must be Float, got Double"),
        ({"out": torch.zeros(4, 6)}, r"out must have shape \[4, 5\], got \[4, 6\]"),
        ({"out": torch.zeros(4, 5).bfloat16()}, "out must be Float, got BFloat16"),
    ],
)
def test_bad_tensors_are_refused_with_what_came(change: dict[str, Tensor], message: str) -> None:
    given = {
        "logits": torch.zeros(4, 5),
        "target": torch.zeros(4, dtype=torch.int64),
        "stats": torch.zeros(4, 4),
        "grad": torch.zeros(4),
        "out": torch.zeros(4, 5),
    } | change
    with pytest.raises(RuntimeError, match=message):
        OPS.logits_stats_backward(
            given["logits"], given["target"], given["stats"], given["grad"], None, 0, 1.0, out=given["out"]
        )


def test_too_many_parts_are_refused() -> None:
    with pytest.raises(RuntimeError, match="partials must hold 1 to 128 tensors, got 129"):
        whole([torch.zeros(5, 1)] * 129)
