"""Whether two runs are the same but for the order in which numbers were added."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import checkpoint, saved_tensors

# Counted, so equal as long as no sampled token differs.
COUNTED = (
    "reward/mean",
    "accuracy/mean",
    "length/mean",
    "tokens/prompt",
    "tokens/response",
    "optimizer/steps",
)
# Computed in fp32 in another order of summation: 2**-23 times a few hundred terms.
COMPUTED = ("loss", "entropy/mean", "entropy/update", "kl_to_old/mean", "clip/high", "clip/low")


def check_same_step(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    for name in COUNTED:
        assert found[name] == expected[name], name
    for name in COMPUTED:
        assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    assert found["grad/norm"] == pytest.approx(expected["grad/norm"], rel=1e-4)
    assert found["mismatch/max_abs"] <= 1e-4


def check_same_checkpoint(run: Path, reference: Path, step: int) -> None:
    """Equal but for rounding, which is a millionth of what training moved."""
    ours, theirs = saved_tensors(checkpoint(run, step)), saved_tensors(checkpoint(reference, step))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        # Where a gradient is almost 0 its sign may be rounding, and Adam takes a whole step by the sign;
        # a single weight may therefore be off, and the mean is not.
        assert float((tensor - theirs[name]).abs().mean()) <= 1e-6, name
