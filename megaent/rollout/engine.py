"""The seam between the trainer and whatever samples: token ids in, token ids and log-probs out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from torch import Tensor

from megaent.types import Group, Metrics, RolloutRequest, SamplingParams


class RolloutEngine(Protocol):
    """Samples responses from the newest weights it was given.

    One engine serves one data-parallel leader. ``version`` is that of the weights in use and is
    stamped on every response.
    """

    version: int
    takes_weights_while_generating: bool
    """Whether ``receive_weights`` may be called in the middle of ``generate``, from another thread."""

    def generate(self, requests: Sequence[RolloutRequest], sampling: SamplingParams) -> list[Group]:
        """One ungraded group per request, in the order of the requests, responses in the order of seeds.

        Raises EngineError when an answer is malformed or does not come in time, DataError when a
        prompt does not fit the model's context together with ``max_new_tokens``.
        """
        ...

    def receive_weights(self, named_tensors: Iterable[tuple[str, Tensor]], version: int) -> Metrics:
        """Replace every weight by the Hugging Face-named tensors streamed in, all or none.

        What there is to tell of their way, under the names of docs/metrics.md.

        Raises EngineError naming the first tensor that is missing, unknown or of another shape.
        """
        ...

    def rest(self) -> None:
        """Nothing is asked before the next ``receive_weights``: memory that serves generation may go."""
        ...

    def close(self) -> None:
        """Release processes, ports and memory; harmless when called twice."""
        ...
