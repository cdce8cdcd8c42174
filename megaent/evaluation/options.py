"""What an evaluation can be told beside its data and its engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from megaent.errors import ConfigError
from megaent.options import require, require_fraction, require_positive


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOptions:
    k: tuple[int, ...] = (1, 4)
    samples: int = 0  # responses drawn of each prompt; 0 is the largest k
    temperature: float = 1.0  # 0 takes the most probable token
    top_p: float = 1.0
    max_new_tokens: int = 0  # 0 is rollout.max_new_tokens
    prompts: int = 0  # the first so many of a set; 0 is all
    seed: int = 0
    out: str = ""  # folder of the responses
    base: str = ""  # folder of another evaluation of the same prompts, to compare with
    grader: str = ""  # with --regrade; "" is the one that graded before

    def __post_init__(self) -> None:
        require(all(k >= 1 for k in self.k), f"k must be 1 or more, got {min(self.k)}")
        require(
            not self.samples or max(self.k) <= self.samples,
            f"k={max(self.k)} needs as many responses a prompt, and samples={self.samples}; raise samples",
        )
        for name in ("samples", "max_new_tokens", "prompts", "temperature"):
            require(getattr(self, name) >= 0, f"{name} must be 0 or more, got {getattr(self, name)}")
        require(math.isfinite(self.temperature), f"temperature must be finite, got {self.temperature}")
        require_fraction("evaluate", top_p=self.top_p)
        require_positive("evaluate", num_k=len(self.k))

    @property
    def drawn(self) -> int:
        return self.samples or max(self.k)


NAMES = tuple(item.name for item in fields(EvaluationOptions))


def read_options(words: Mapping[str, str]) -> EvaluationOptions:
    """``{"k": "1,8", "temperature": "0.6"}``. Raises ConfigError for what is no number."""
    kinds = get_type_hints(EvaluationOptions)
    return EvaluationOptions(**{name: _read(name, text, kinds[name]) for name, text in words.items()})


def _read(name: str, text: str, kind: Any) -> Any:
    if kind is str:
        return text
    try:
        if name == "k":
            return tuple(sorted({int(part) for part in text.strip("[]").split(",")}))
        return kind(text)
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}.get(kind, "numbers such as 1,4,8")
        raise ConfigError(f"{name} must be {wanted}, got {text!r}") from error
