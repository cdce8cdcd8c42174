"""The paths that are measured: from which tensors to which statistics of every token."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from megaent.ops.token_statistics import EXTRAS, TokenStatistics


class OpPath(NamedTuple):
    name: str
    outputs: tuple[str, ...]
    """Fields of ``TokenStatistics``, in the order in which every contender gives them."""
    num_trained: int
    """Outputs with a gradient; they come first."""
    from_hidden: bool = False
    has_reference: bool = False

    @property
    def extras(self) -> tuple[str, ...]:
        return tuple(name for name in self.outputs if name in EXTRAS)

    def of(self, result: TokenStatistics) -> tuple[Tensor, ...]:
        """The outputs of one of our ops."""
        return tuple(getattr(result, name) for name in self.outputs)


_TRAINED = ("log_prob", "entropy")
PATHS = {
    path.name: path
    for path in (
        OpPath("logits", _TRAINED, 2),
        OpPath("linear", _TRAINED, 2, from_hidden=True),
        OpPath("kl", (*_TRAINED, "kl"), 3, has_reference=True),
        OpPath("extras", (*_TRAINED, *EXTRAS), 2),
    )
}
