"""Shares of a mixture, as they are written: ``3*gsm8k+math``."""

from __future__ import annotations

from collections.abc import Mapping

from megaent.errors import ConfigError, DataError


def read_weights(text: str) -> dict[str, float]:
    """``3*gsm8k+math`` -> {"gsm8k": 3.0, "math": 1.0}. Raises ConfigError."""
    weights: dict[str, float] = {}
    for part in filter(None, text.split("+")):
        number, _, name = part.rpartition("*")
        try:
            weight = float(number or 1)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf") or not name.strip() or name.strip() in weights:
            raise ConfigError(
                "data.weights must be names of what data.path holds, each once, with weights above 0, as "
                f"3*gsm8k+math; got {text}"
            )
        weights[name.strip()] = weight
    return weights


def shares_of(text: str, sizes: Mapping[str, int]) -> list[float]:
    """Of what is asked, in the order of ``sizes``; by those where ``text`` is empty.

    Raises DataError where it names other sets than there are.
    """
    weights = read_weights(text)
    odd = weights.keys() ^ sizes.keys() if weights else set()
    if odd:
        raise DataError(
            f"data.weights must name {', '.join(sizes)} and nothing else; {', '.join(sorted(odd))} is "
            "in only one of both"
        )
    given = [weights[name] for name in sizes] if weights else list(sizes.values())
    return [weight / sum(given) for weight in given]
