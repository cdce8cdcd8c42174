"""Sets of k drawn from n responses of which c are correct, all alike: counted in integers, then divided."""

from __future__ import annotations

import math


def one_is_correct(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), which 1 - (1 - c/n)^k is not (Chen et al. 2021, arXiv 2107.03374)."""
    subsets = math.comb(n, k)
    return (subsets - math.comb(n - c, k)) / subsets


def all_are_correct(n: int, c: int, k: int) -> float:
    """C(c, k) / C(n, k) (Yao et al. 2024, arXiv 2406.12045)."""
    return math.comb(c, k) / math.comb(n, k)


def deviation(n: int, c: int, k: int) -> float:
    """Expected standard deviation of the k verdicts, the sum of squares divided by k.

    With k = n that is sqrt(c (n - c)) / n, as published tables of std@k have it.
    """
    spread = (math.comb(c, j) * math.comb(n - c, k - j) * math.sqrt(j * (k - j)) / k for j in range(1, k))
    return math.fsum(spread) / math.comb(n, k)
