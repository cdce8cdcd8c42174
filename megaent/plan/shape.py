"""The sizes of a transformer that decide what it costs, and how many parameters follow from them."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.errors import ConfigError
from megaent.model_folder.architecture import VOCAB_MULTIPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder. ``ffn`` is one expert's intermediate size where there are experts."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True  # gate and up beside each other, as in SwiGLU
    tied: bool = False  # one matrix for embedding and head
    qkv_bias: bool = False
    qk_norm: bool = False
    biased: bool = False  # GPT: LayerNorm with bias, and a bias on every matrix
    positions: int = 0  # learnt position embeddings
    experts: int = 0
    experts_per_token: int = 0
    trained_by: str = "megatron"  # the stack of those who published it: MPT's is FSDP

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab"):
            if getattr(self, name) < 1:
                raise ConfigError(f"shape {self.name}: {name} must be 1 or more, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            near = max(d for d in range(1, self.kv_heads + 1) if self.heads % d == 0)
            raise ConfigError(
                f"shape {self.name} contradicts itself: {self.heads} heads do not divide among "
                f"{self.kv_heads} key/value heads; the nearest that do are {near}"
            )
        if self.experts and not 0 < self.experts_per_token <= self.experts:
            raise ConfigError(
                f"shape {self.name} contradicts itself: {self.experts_per_token} experts a token of "
                f"{self.experts}; give experts_per_token between 1 and {self.experts}"
            )

    # What megaent.actor.sizes divides, under its names.

    @property
    def num_layers(self) -> int:
        return self.layers

    @property
    def num_heads(self) -> int:
        return self.heads

    @property
    def num_kv_heads(self) -> int:
        return self.kv_heads

    @property
    def intermediate_size(self) -> int:
        return self.ffn

    @property
    def query(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of all keys, or of all values."""
        return self.kv_heads * self.head_dim

    @property
    def padded_vocab(self) -> int:
        return -(-self.vocab // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def attention_matrices(self) -> int:
        """Weights of one layer's projections."""
        return self.hidden * (2 * self.query + 2 * self.key_value)

    @property
    def expert_matrices(self) -> int:
        """Weights of one feed-forward block, or of one expert."""
        return (3 if self.gated else 2) * self.hidden * self.ffn

    @property
    def active_matrices(self) -> int:
        """Weights of one layer that a token passes through."""
        routed = self.experts_per_token * self.expert_matrices + self.hidden * self.experts
        return self.attention_matrices + (routed if self.experts else self.expert_matrices)

    @property
    def parameters(self) -> int:
        """All of them, as a Hugging Face folder holds them (the vocabulary not padded)."""
        from megaent.plan.parameters import layer_parameters

        ends = self.vocab * self.hidden * (1 if self.tied else 2) + self.positions * self.hidden
        return self.layers * layer_parameters(self).total + ends + self.hidden * (2 if self.biased else 1)
