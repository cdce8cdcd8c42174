"""Does a server hold the weights it was sent? Asked of its memory: one wrong byte is found, and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megaent.errors import ConfigError, EngineError, NumericsError
from megaent.rollout.sglang.control import Control
from megaent.sync.checksums import Checksums


@dataclass(frozen=True, slots=True)
class WeightCheck:
    """Compares every parameter of a server with what was published."""

    control: Control
    checksums: Checksums

    def __call__(self, server: str) -> None:
        """Raises NumericsError with the first tensor that differs, in the order of publication."""
        found = _checksums_of(server, self.control.post(server, "/weights_checker", {"action": "checksum"}))
        for parameter, expected in self.checksums.expected.items():
            if found.get(parameter) == expected:
                continue
            tensors = " + ".join(self.checksums.sources[parameter])
            if parameter not in found:
                raise NumericsError(
                    f"{server} has no parameter {parameter}, to which {tensors} was published: it serves "
                    "another model"
                )
            raise NumericsError(
                f"{server} does not hold {tensors} as published: the checksum of {parameter} is "
                f"{found[parameter]}, expected {expected}; is rollout.dtype the type that the server runs in?"
            )
        unpublished = [parameter for parameter in found if parameter not in self.checksums.expected]
        if unpublished:
            raise NumericsError(
                f"{server} holds {unpublished[0]}, for which nothing was published: it serves another model"
            )


def _checksums_of(server: str, answer: Any) -> Mapping[str, str]:
    ranks = answer.get("ranks") if isinstance(answer, dict) else None
    if not isinstance(ranks, list) or not ranks or not all(isinstance(rank, dict) for rank in ranks):
        raise EngineError(f"{server}/weights_checker names no checksums: {str(answer)[:200]}")
    if len(ranks) > 1:
        raise ConfigError(
            f"{server} splits its weights over {len(ranks)} ranks, whose checksums are of parts; set "
            "rollout.sync.checksums=false, log-probabilities are compared all the same"
        )
    found = ranks[0].get("checksums")
    if not isinstance(found, dict):
        raise EngineError(f"{server}/weights_checker names no checksums: {str(answer)[:200]}")
    return found
