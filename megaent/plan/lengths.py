"""How long responses are: a log-normal distribution, cut at the longest that is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, exp, log, sqrt
from random import Random
from statistics import NormalDist

from megaent.errors import ConfigError

_POINTS = 64
_NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """``mean`` is that of the responses as they are cut; ``spread`` the standard deviation over the mean
    before they are."""

    mean: float  # tokens
    longest: int  # tokens allowed
    spread: float

    def __post_init__(self) -> None:
        if not 0 < self.mean < self.longest:
            raise ConfigError(
                f"response_tokens={self.mean:g} must lie between 0 and max_new_tokens={self.longest}; it is "
                "the mean of what is generated"
            )
        if self.spread <= 0:
            raise ConfigError(f"length_spread must be above 0, got {self.spread:g}; 0.8 is usual")

    @cached_property
    def _sigma(self) -> float:
        return sqrt(log(1 + self.spread**2))

    @cached_property
    def _mu(self) -> float:
        """Such that the cut distribution has the mean; by bisection of the median's logarithm."""
        low, high = log(self.mean) - 5, log(self.longest) + 12
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._moments(middle)[0] < self.mean else (low, middle)
        return (low + high) / 2

    def _moments(self, mu: float) -> tuple[float, float]:
        """Mean and mean square, from the area under the survival curve."""
        width = self.longest / _POINTS
        middles = [(number + 0.5) * width for number in range(_POINTS)]
        survive = [1 - _NORMAL.cdf((log(x) - mu) / self._sigma) for x in middles]
        return width * sum(survive), width * sum(2 * x * s for x, s in zip(middles, survive, strict=True))

    def longer_than(self, tokens: float) -> float:
        """Share of responses that are not finished after ``tokens``."""
        if tokens >= self.longest:
            return 0.0
        return 1 - _NORMAL.cdf((log(max(tokens, 1e-9)) - self._mu) / self._sigma)

    def longest_of(self, count: float) -> float:
        """Tokens of the longest of ``count`` responses, its median."""
        quantile = 0.5 ** (1 / max(count, 1))
        return min(self.longest, 2.718281828459045 ** (self._mu + self._sigma * _NORMAL.inv_cdf(quantile)))

    def draw(self, random: Random) -> int:
        """Tokens of one response."""
        return ceil(min(self.longest, exp(random.gauss(self._mu, self._sigma))))

    @cached_property
    def mean_square(self) -> float:
        return self._moments(self._mu)[1]

    def context(self, prompt: float) -> float:
        """Tokens that a token attends to in packed sequences, nothing masked: E[l^2] / E[l]."""
        square = prompt**2 + 2 * prompt * self.mean + self.mean_square
        return square / (prompt + self.mean)
