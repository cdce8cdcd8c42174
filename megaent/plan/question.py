"""What is asked of a plan: ``key=value`` words, typed and checked."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from megaent.errors import ConfigError
from megaent.plan.cluster import Cluster, find_cluster
from megaent.plan.constants import Constants, replaced
from megaent.plan.layout import RECOMPUTE, SHARDING
from megaent.plan.measured import measured_constants
from megaent.plan.shape import Shape
from megaent.plan.shapes import check_claims, find_shape
from megaent.plan.table_words import said_by_tables, typed_for_a_step
from megaent.plan.work import ATTENTION, HEADS, PRECISIONS, STACKS, STATES

WORKLOADS = ("rl", "train")
_CHOICES = {
    "workload": WORKLOADS,
    "recompute": ("", *RECOMPUTE),
    "sharding": ("", *SHARDING),
    "precision": PRECISIONS,
    "stack": ("", *STACKS),
    "head": ("", *HEADS),
    "attention": ("", *ATTENTION),
    "states": STATES,
    "sequence_parallel": ("", "true", "false"),
}
_OTHER_KEYS = {"gpu": "cluster", "n_gpus": "gpus", "cards": "gpus", "prompts_per_step": "prompts"}
_SIZES = ("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "experts", "experts_per_token")


@dataclass(frozen=True, kw_only=True)
class Question:
    """0 or nothing leaves a value to the search. Tokens are means where no other word is used."""

    model: str = ""
    cluster: str = "h100"
    nodes: int = 0
    gpus: int = 0
    workload: str = "rl"

    # a step of reinforcement learning
    prompts: int = 128
    group_size: int = 16
    prompt_tokens: float = 256.0
    response_tokens: float = 4096.0
    max_new_tokens: int = 16384
    length_spread: float = 0.0  # standard deviation over mean; 0 takes the constant
    minibatches: int = 1
    method: str = "grpo"
    staleness: int = 0

    # a step of training alone, as tables state it
    seq_len: int = 4096
    global_batch: int = 128  # sequences
    micro_batch: int = 0  # sequences
    lora: bool = False

    # layout
    tp: int = 0
    pp: int = 0
    vpp: int = 0
    cp: int = 0
    ep: int = 0
    engine_tp: int = 0
    engine_gpus: int = 0  # apart from the trainer's; 0 with staleness=0 may also share them
    microbatch_tokens: int = 0
    recompute: str = ""
    sharding: str = ""
    sequence_parallel: str = ""  # with tensor ranks; true unless scores are in memory
    precision: str = "bf16"
    stack: str = ""
    head: str = ""
    attention: str = ""
    states: str = "fp32"

    # a model that has no name
    hidden: int = 0
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    ffn: int = 0
    vocab: int = 0
    experts: int = 0
    experts_per_token: int = 0
    params_b: float = 0.0  # billions, compared with what the sizes make

    # what is shown
    price: float = 0.0  # of a card for an hour; 0 takes the cluster's
    steps: int = 100
    top: int = 3
    measured: str = ""  # a report of `megaent bench ops --device cuda`
    constants: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type in ("int", "float") and not 0 <= value < math.inf:
                raise ConfigError(f"{item.name} must be a finite number of 0 or more, got {value}")
            if item.name in _CHOICES and value not in _CHOICES[item.name]:
                known = ", ".join(word for word in _CHOICES[item.name] if word)
                raise ConfigError(f"{item.name} must be one of {known}, got {value!r}")
        needed = ("prompts", "group_size", "minibatches", "steps", "top", "seq_len", "global_batch")
        for name in needed:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.sequence_parallel == "true" and self.tp == 1:
            raise ConfigError(
                "sequence_parallel=true has no effect with tp=1; leave it out, or choose tp=2 or more"
            )
        if "file_gbps" in self.constants:
            raise ConfigError("constants.file_gbps is of published rows (--rows) alone; leave it out")
        if not self.model:
            raise ConfigError(
                "model has no value; add model=qwen2_5_7b, or the path of a Hugging Face folder"
            )

    @property
    def is_rl(self) -> bool:
        return self.workload == "rl"

    def read_cluster(self) -> Cluster:
        found = find_cluster(self.cluster)
        return replace(found, price=self.price) if self.price else found

    def read_constants(self, cluster: Cluster) -> Constants:
        """Measured on the card, then given one by one, then ours."""
        found = measured_constants(Path(self.measured), cluster) if self.measured else {}
        return replaced(Constants(), found | self.constants)

    def read_shape(self) -> Shape:
        """The named shape, or one of the given sizes; both, and they must agree."""
        sizes = {name: getattr(self, name) for name in _SIZES if getattr(self, name)}
        if {"hidden", "layers", "heads", "ffn", "vocab"} <= sizes.keys():
            shape = self._own_shape()
        else:
            shape = find_shape(self.model)
        for name, size in sizes.items():
            if size != getattr(shape, name):
                raise ConfigError(
                    f"{name}={size} contradicts {shape.name}, which has {getattr(shape, name)}; leave it "
                    "out, or give hidden, layers, heads, ffn and vocab all together"
                )
        check_claims(shape, hidden=self.hidden, layers=self.layers, params_b=self.params_b)
        return shape

    def _own_shape(self) -> Shape:
        return Shape(
            name=self.model, hidden=self.hidden, layers=self.layers, heads=self.heads,
            kv_heads=self.kv_heads or self.heads, head_dim=self.head_dim or max(1, self.hidden // self.heads),
            ffn=self.ffn, vocab=self.vocab, experts=self.experts, experts_per_token=self.experts_per_token,
        )  # fmt: skip

    def count_cards(self, cluster: Cluster) -> int:
        cards = self.gpus or self.nodes * cluster.cards_per_node
        if not cards:
            raise ConfigError("how many cards? add nodes=16, or gpus=128")
        if self.gpus and self.nodes and self.gpus != self.nodes * cluster.cards_per_node:
            raise ConfigError(
                f"gpus={self.gpus} contradicts nodes={self.nodes} of {cluster.cards_per_node} cards each; "
                "give one of them"
            )
        return cards


def read_question(words: Sequence[str]) -> Question:
    """Raises ConfigError for a word that is no ``key=value``, an unknown key or a wrong type."""
    given: dict[str, Any] = {}
    constants: dict[str, float] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"{word!r} is no key=value, such as model=qwen2_5_32b or nodes=16")
        text = said_by_tables(key, text)
        if key.startswith("constants."):
            constants[key.removeprefix("constants.")] = _number(key, text)
        else:
            key = _OTHER_KEYS.get(key, key)
            if key in given:
                raise ConfigError(f"{key} is given twice; once is enough")
            given[key] = _typed(key, text)
    if given.get("workload", "rl") == "rl":
        given = typed_for_a_step(given, defaults={item.name: item.default for item in fields(Question)})
    return Question(**given, constants=constants)


def _typed(key: str, text: str) -> object:
    kinds = {item.name: item.type for item in fields(Question) if item.name != "constants"}
    if key not in kinds:
        near = difflib.get_close_matches(key, kinds, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`megaent plan --help` lists them"
        raise ConfigError(f"there is no key {key!r}; {hint}")
    if kinds[key] == "bool":
        if text not in ("true", "false"):
            raise ConfigError(f"{key} must be true or false, got {text!r}")
        return text == "true"
    if kinds[key] == "int":
        if not text.isdecimal():
            raise ConfigError(f"{key} must be a whole number, got {text!r}")
        return int(text)
    if kinds[key] == "float":
        return _number(key, text)
    return text


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{key} must be a number, got {text!r}") from error
