"""How near is near enough: as near as plain PyTorch comes in the same precision."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_accurate_as_torch(
    ours: Tensor,
    exact: Tensor,
    torch_same_dtype: Tensor,
    *,
    factor: float = 2.0,
    floor: float = 1e-6,
    name: str = "value",
) -> None:
    """``ours`` may err at most ``factor`` times as much as plain PyTorch does in the same dtype.

    The allowance is ``factor`` times PyTorch's largest error, or ``floor`` times the largest exact value
    where PyTorch happens to hit it. What is not finite must be the same thing in the same place.
    """
    if not ours.shape == exact.shape == torch_same_dtype.shape:
        shapes = [list(x.shape) for x in (ours, exact, torch_same_dtype)]
        raise AssertionError(f"{name}: the three shapes must be equal, got {shapes}")
    if ours.numel() == 0:
        return
    got, truth = ours.detach().double(), exact.detach().double()
    is_finite = truth.isfinite()
    odd = ~is_finite & (got.nan_to_num(nan=torch.pi) != truth.nan_to_num(nan=torch.pi))
    if bool(odd.any()) or not bool(got[is_finite].isfinite().all()):
        place = (odd | (is_finite & ~got.isfinite())).nonzero()[0].tolist()
        raise AssertionError(f"{name}{place}: got {float(got[*place])}, expected {float(truth[*place])}")
    zero = torch.zeros_like(truth)
    error = torch.where(is_finite, (got - truth).abs(), zero)
    # Where plain torch breaks down altogether it sets no standard.
    theirs = torch.where(is_finite, (torch_same_dtype.detach().double() - truth).abs(), zero)
    theirs = theirs[theirs.isfinite()].max() if bool(theirs.isfinite().any()) else zero.max()
    allowed = max(
        factor * float(theirs), floor * max(1.0, float(torch.where(is_finite, truth, zero).abs().max()))
    )
    if float(error.max()) > allowed:
        place = torch.unravel_index(error.argmax(), error.shape)
        index = [int(i) for i in place]
        raise AssertionError(
            f"{name}{index}: got {float(got[place]):.9g}, expected {float(truth[place]):.9g}, "
            f"error {float(error[place]):.3g}, allowed {allowed:.3g}"
        )


def assert_errs_like_torch(
    ours: Tensor, exact: Tensor, torch_same_dtype: Tensor, *, factor: float = 2.0, name: str = "value"
) -> None:
    """The root mean square error of ``ours`` may be ``factor`` times that of plain PyTorch in the same dtype.

    Where PyTorch happens to be exact it may be 1e-7 of the root mean square of ``exact``. Everything finite.
    """

    def rms(value: Tensor) -> float:
        return float(value.detach().double().square().mean().sqrt())

    error, theirs = rms(ours.double() - exact), rms(torch_same_dtype.double() - exact)
    allowed = max(factor * theirs, 1e-7 * rms(exact))
    if not error <= allowed:
        raise AssertionError(f"{name}: error {error:.3g} (root mean square), allowed {allowed:.3g}")
