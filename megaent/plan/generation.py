"""Seconds of generating a batch of responses: prefill, decoding while engines are full, and the tail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

from megaent.errors import ConfigError
from megaent.plan.lengths import Lengths
from megaent.plan.machine import GIB, Machine
from megaent.plan.shape import Shape

_SLICES = 48
_FEW = 0.1  # of an engine's first batch: what runs after that is the tail


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSeconds:
    """``steady`` is what a batch costs where engines are full of other batches too; ``slowest`` how long the
    longest response takes among those that are still running then."""

    prefill: float
    decode: float
    tail: float
    steady: float
    slowest: float

    @property
    def total(self) -> float:
        return self.prefill + self.decode + self.tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """``cards`` in engines of ``tp``; ``memory`` bytes of a card are theirs."""

    cards: int
    tp: int
    memory: float
    weight_bytes: int = 2  # 1: fp8 weights, and products in fp8

    @property
    def count(self) -> int:
        return self.cards // self.tp

    def weights(self, shape: Shape) -> float:
        """Bytes on a card."""
        return self.weight_bytes * shape.parameters / self.tp

    def cached_tokens(self, shape: Shape) -> float:
        """That the keys and values of one engine have room for."""
        room = self.memory - self.weights(shape)
        if room <= 0:
            raise ConfigError(
                f"an engine of {self.tp} cards lacks {-room / GIB:.1f} GiB a card for the weights of "
                f"{shape.name} alone; raise engine_tp"
            )
        return room * self.tp / token_bytes(shape)


def token_bytes(shape: Shape) -> float:
    """Keys and values of a token in all layers, bf16."""
    return 4 * shape.key_value * shape.layers


def decode_seconds(
    machine: Machine, shape: Shape, tp: int, batch: float, context: float, *, weight_bytes: int = 2
) -> float:
    """One token of each of ``batch`` responses: weights and cache are read once, or products take longer.

    Experts' products are grouped, in decoding as in training, and reach the same share of dense ones.
    """
    constants, cluster = machine.constants, machine.cluster
    per_layer = shape.attention_matrices
    if shape.experts:
        touched = shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** batch)
        per_layer += touched * shape.expert_matrices / constants.expert_share
    else:
        per_layer += shape.expert_matrices
    weights = weight_bytes * (shape.layers * per_layer + shape.hidden * shape.padded_vocab)
    read = (weights + batch * context * token_bytes(shape)) / tp
    memory = read / (cluster.memory_gbps * 1e9 * constants.decode_memory_share)
    active = shape.layers * shape.active_matrices + shape.hidden * shape.padded_vocab
    products = 2 * active * batch / tp / (_peak(machine, weight_bytes) * constants.prefill_share)
    return max(memory, products) + _sums(machine, shape, tp, batch) + constants.decode_overhead_s


def _peak(machine: Machine, weight_bytes: int) -> float:
    """Operations a second of a card on its data sheet; fp8's where it has any."""
    cluster = machine.cluster
    return 1e12 * (cluster.bf16_tflops if weight_bytes == 2 else cluster.fp8_tflops or cluster.bf16_tflops)


def _sums(machine: Machine, shape: Shape, tp: int, batch: float) -> float:
    """Two sums a layer over an engine's cards, in one hop each."""
    if tp == 1:
        return 0.0
    moved = 2 * 2 * batch * shape.hidden * (tp - 1) / tp
    link = machine.cluster.link_gbps * 1e9 * machine.constants.link_share
    return 2 * shape.layers * (machine.constants.link_latency_s + moved / link)


@lru_cache(maxsize=4096)
def generate_seconds(
    machine: Machine,
    shape: Shape,
    engines: Engines,
    lengths: Lengths,
    *,
    prompts: float,
    group: int,
    prompt: float,
    ahead: int = 1,
) -> GenerateSeconds:
    """All groups of a step; every engine takes an equal share, and a prompt's group shares its prefill.

    ``ahead`` batches are under way at once in the steady state.
    """
    requests = prompts * group / engines.count
    room = engines.cached_tokens(shape) / (prompt + lengths.mean)
    if room < 1:
        raise ConfigError(f"an engine of {engines.tp} cards has no room for one response; raise engine_tp")
    together = min(requests, room)
    active = shape.layers * shape.active_matrices
    rate = engines.tp * _peak(machine, engines.weight_bytes) * machine.constants.prefill_share

    def decoded(batch: float, context: float) -> float:
        return decode_seconds(machine, shape, engines.tp, batch, context, weight_bytes=engines.weight_bytes)

    prefill = prompts / engines.count * prompt * 2 * active / rate
    context = (lengths.context(prompt) + prompt) / 2
    full = decoded(together, context)
    waiting = (requests - together) * lengths.mean * full / together
    most = min(requests * ahead, room)
    steady = requests * lengths.mean * decoded(most, context) / most
    # Batches that waited for one slow response begin anew together, so the longest of more than one counts;
    # the root agrees with simulation. While it runs, of each batch the share mean / longest still runs.
    longest = lengths.longest_of(requests * engines.count * sqrt(ahead))
    left = max(1.0, most * lengths.mean / longest)
    slowest = longest * decoded(left, context)
    decode, tail = _last_batch(decoded, lengths, together, together * engines.count, prompt)
    return GenerateSeconds(
        prefill=prefill,
        decode=waiting + decode,
        tail=tail,
        steady=prefill + steady,
        slowest=prefill + slowest,
    )


def _last_batch(
    decoded: Callable[[float, float], float],
    lengths: Lengths,
    together: float,
    requests: float,
    prompt: float,
) -> tuple[float, float]:
    """Seconds while over a tenth of the batch runs, and of the rest until the longest of ``requests``."""
    width = lengths.longest_of(requests) / _SLICES
    decode = tail = 0.0
    for number in range(_SLICES):
        position = (number + 0.5) * width
        left = lengths.longer_than(position)
        seconds = width * decoded(max(1.0, together * left), prompt + position)
        decode, tail = (decode + seconds, tail) if left > _FEW else (decode, tail + seconds)
    return decode, tail
