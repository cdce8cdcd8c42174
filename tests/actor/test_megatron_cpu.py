"""Every adaptation of megatron-core is still needed, named, and does what it says."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from megatron.core.optimizer import clip_grads

from megaent.actor import megatron_cpu
from megaent.errors import MissingDependency

pytestmark = [pytest.mark.full, pytest.mark.both]


def test_the_version_is_the_one_that_was_read() -> None:
    installed = importlib.metadata.version("megatron-core")
    assert installed == ("0.16.1" if sys.version_info < (3, 12) else "0.19.2")


@pytest.mark.parametrize("name", megatron_cpu.ADAPTATIONS)
def test_each_adaptation_has_its_site_in_the_versions_it_names_and_in_no_other(name: str) -> None:
    """When this fails, Megatron no longer needs the adaptation, or needs it already: mend its versions."""
    adaptation = megatron_cpu.ADAPTATIONS[name]
    is_expected = megatron_cpu.version() in adaptation.versions
    for module, text in adaptation.needles:
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"{module} is gone"
        assert spec.origin is not None, f"{module} has no source"
        is_there = text in Path(spec.origin).read_text()
        assert is_there == is_expected, f"{module} {'contains' if is_there else 'no longer contains'} {text}"


def test_a_version_that_nobody_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "megatron_core-0.17.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: megatron-core\nVersion: 0.17.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match=r"megatron-core 0\.17\.1 is installed.*0\.16 and 0\.19 were"):
        megatron_cpu.version()


def test_adapting_twice_changes_nothing_more() -> None:
    first = megatron_cpu.adapt()
    type_ = torch.Tensor.type
    assert megatron_cpu.adapt() == first
    assert torch.Tensor.type is type_


def test_factories_of_redirected_modules_stay_on_the_cpu_and_torch_is_itself() -> None:
    megatron_cpu.adapt()
    assert clip_grads.torch.zeros(2, device="cuda").device.type == "cpu"
    assert clip_grads.torch.sum is torch.sum
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(2, device="cuda")


def test_clipping_scales_by_megatrons_rule() -> None:
    megatron_cpu.adapt()
    parameters = [torch.nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2)]
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.full((3,), float(number + 1), dtype=torch.float64)
    clip_grads.clip_grad_by_total_norm_fp32(parameters, 1.0, 4.0)
    expected = 1.0 / (4.0 + 1e-6)
    assert torch.equal(parameters[1].grad, torch.full((3,), 2.0 * expected, dtype=torch.float64))
    clip_grads.clip_grad_by_total_norm_fp32(parameters, 8.0, 4.0)
    assert torch.equal(parameters[0].grad, torch.full((3,), expected, dtype=torch.float64))


def test_random_streams_are_apart_and_leave_the_outside_alone() -> None:
    megatron_cpu.adapt()
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    tracker = CudaRNGStatesTracker()
    tracker.add("one", 1)
    tracker.add("two", 2)
    torch.manual_seed(0)
    expected_outside = torch.rand(2)
    torch.manual_seed(0)
    with tracker.fork("one"):
        first = torch.rand(2)
    with tracker.fork("two"):
        second = torch.rand(2)
    assert torch.equal(torch.rand(2), expected_outside)
    assert torch.equal(first, torch.rand(2, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(second, torch.rand(2, generator=torch.Generator().manual_seed(2)))
    with pytest.raises(ValueError, match="exists already"):
        tracker.add("one", 3)
