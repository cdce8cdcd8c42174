"""Seconds that one card needs for one operation, and one group of cards for one exchange."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from megaent.plan.cluster import Cluster
from megaent.plan.constants import Constants

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    cluster: Cluster
    constants: Constants

    # ------------------------------------------------------------ one card

    def peak(self, *, fp8: bool = False) -> float:
        """Operations a second that products can reach, before their sides cost anything."""
        share = self.constants.of("gemm_share", self.cluster.generation) * self.cluster.clock_share
        if fp8:
            return self.cluster.fp8_tflops * 1e12 * share * self.constants.fp8_share
        return self.cluster.bf16_tflops * 1e12 * share

    def gemm(self, m: float, n: float, k: float, *, fp8: bool = False) -> float:
        """[m, k] times [k, n]. Short sides waste tiles; small products wait for memory."""
        half = self.constants.gemm_half * (2 if fp8 else 1)
        stretch = (1 + half / m) * (1 + half / n) * (1 + half / k)
        size = 1 if fp8 else 2
        traffic = (m * k + k * n) * size + 2 * m * n
        return max(2 * m * n * k * stretch / self.peak(fp8=fp8), self.traffic(traffic))

    def attention(
        self, operations: float, *, head_dim: int, backward: bool = False, older: bool = False
    ) -> float:
        """``operations`` of flash attention, the upper triangle left out; ``older``: its second version."""
        share = self.constants.of("attention_forward", self.cluster.generation) * self.cluster.clock_share
        if older and self.cluster.generation != "ampere":
            share *= self.constants.attention_older
        share *= min(1.0, 0.7 + 0.3 * (head_dim - 64) / 64) if head_dim < 128 else 1.0
        share *= self.constants.attention_backward if backward else 1.0
        return operations / (self.cluster.bf16_tflops * 1e12 * share)

    def traffic(self, num_bytes: float) -> float:
        """Bytes read and written in the card's memory."""
        return num_bytes / (self.cluster.memory_gbps * 1e9 * self.constants.memory_share)

    # ------------------------------------------------------------ groups

    def all_gather(self, num_bytes: float, ranks: int, *, inner: int = 1) -> float:
        """``num_bytes`` whole on each of ``ranks``; a reduce-scatter costs the same.

        ``inner`` cards lie between two neighbours of the group: of the dimensions that vary faster.
        """
        if ranks == 1:
            return 0.0
        rate, latency = self._path(ranks, inner)
        return num_bytes * (ranks - 1) / ranks / rate + latency * max(1.0, log2(ranks))

    def all_reduce(self, num_bytes: float, ranks: int, *, inner: int = 1) -> float:
        return 2 * self.all_gather(num_bytes, ranks, inner=inner)

    def all_to_all(self, num_bytes: float, ranks: int, *, inner: int = 1) -> float:
        """Each of ``ranks`` sends ``num_bytes`` in equal parts; what leaves the node takes one adapter."""
        if ranks == 1:
            return 0.0
        near = min(ranks, max(1, self.cluster.cards_per_node // inner))
        far = num_bytes * (ranks - near) / ranks
        inside = num_bytes * (near - 1) / ranks / self._link
        latency = self.constants.network_latency_s if far else self.constants.link_latency_s
        return max(inside, far / self._network) + latency

    def send(self, num_bytes: float, *, inner: int) -> float:
        """One card to a neighbour ``inner`` cards away."""
        rate, latency = self._path(2, inner)
        return num_bytes / rate + latency

    @property
    def _link(self) -> float:
        return self.cluster.link_gbps * 1e9 * self.constants.link_share

    @property
    def _network(self) -> float:
        return self.cluster.network_gbps * 1e9 * self.constants.network_share

    def _path(self, ranks: int, inner: int) -> tuple[float, float]:
        """Bytes a second and seconds of latency; a group uses the adapters of all its cards in a node."""
        if ranks * inner <= self.cluster.cards_per_node:
            return self._link, self.constants.link_latency_s
        in_node = min(ranks, max(1, self.cluster.cards_per_node // inner))
        return min(self._link, self._network * in_node), self.constants.network_latency_s


def whole(value: float) -> int:
    """Rounded up, with a hair's breadth for floating point."""
    return ceil(value - 1e-9)
