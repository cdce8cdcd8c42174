"""Output layers of real models by name, so that no benchmark invents a size."""

from __future__ import annotations

from typing import NamedTuple

from megaent.errors import ConfigError


class Shape(NamedTuple):
    """The output layer of a model, or one rank's rows of it."""

    name: str
    hidden_size: int  # D
    vocab_size: int  # V, padded rows included


# `hidden_size` and `vocab_size` of the models' config.json on Hugging Face.
_SHAPES = {
    "qwen2.5-1.5b": (1536, 151936),
    "qwen2.5-7b": (3584, 152064),
    "qwen2.5-14b": (5120, 152064),
    "qwen2.5-32b": (5120, 152064),
    "llama3-8b": (4096, 128256),
    "tiny": (64, 4096),  # no model: to see a program work
}


def find_shape(name: str) -> Shape:
    """``qwen2.5-7b``, or ``qwen2.5-7b/8`` for one of eight tensor-parallel ranks."""
    model, _, shards = name.partition("/")
    if model not in _SHAPES or (shards and not shards.isdecimal()) or shards == "0":
        raise ConfigError(
            f"--shapes takes {', '.join(_SHAPES)}, each with /RANKS for one rank's part; got {name!r}"
        )
    hidden_size, vocab_size = _SHAPES[model]
    num_ranks = int(shards or 1)
    if vocab_size % num_ranks:
        raise ConfigError(f"--shapes {name}: {vocab_size} rows do not divide among {num_ranks} ranks")
    return Shape(name, hidden_size, vocab_size // num_ranks)
