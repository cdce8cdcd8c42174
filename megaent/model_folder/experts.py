"""The experts of a mixture: how many, how a token chooses, and what Hugging Face calls their tensors."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.model_folder.json_file import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """Within a layer, in a model's files."""

    block: str
    gate: str
    up: str
    down: str

    def router(self) -> str:
        return f"{self.block}.gate.weight"

    def of(self, expert: int) -> tuple[str, str, str]:
        """Gate, up and down projection."""
        names = (self.gate, self.up, self.down)
        return tuple(f"{self.block}.experts.{expert}.{name}.weight" for name in names)  # type: ignore[return-value]


NAMES = {
    "qwen3_moe": ExpertNames(block="mlp", gate="gate_proj", up="up_proj", down="down_proj"),
    "mixtral": ExpertNames(block="block_sparse_moe", gate="w1", up="w3", down="w2"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Every layer's feed-forward part is ``count`` of them; a token goes through ``chosen`` of these."""

    count: int
    chosen: int
    normalised: bool  # the weights of the chosen ones sum to 1, instead of staying shares of all


def read_experts(config: Fields, family: str) -> Experts | None:
    """None for a dense family. Raises ModelError for mixtures that are computed otherwise."""
    if family == "mixtral":
        _refuse(config, config.get("sliding_window") is not None, "sliding_window", "null")
        _refuse(config, bool(config.get("router_jitter_noise")), "router_jitter_noise", "0")
        count, chosen, normalised = config.whole("num_local_experts", 8), 2, True
    elif family == "qwen3_moe":
        _refuse(config, config.flag("use_sliding_window", False), "use_sliding_window", "false")
        _refuse(config, config.whole("decoder_sparse_step", 1) != 1, "decoder_sparse_step", "1")
        _refuse(
            config, bool(config.get("mlp_only_layers")), "mlp_only_layers", "empty: every layer a mixture"
        )
        count, chosen = _qwen3_count(config), 8
        normalised = config.flag("norm_topk_prob", False)
    else:
        return None
    chosen = config.whole("num_experts_per_tok", chosen)
    _refuse(config, chosen > count, "num_experts_per_tok", f"at most the {count} experts")
    _refuse(config, normalised and chosen == 1, "num_experts_per_tok", "2 or more where weights sum to 1")
    return Experts(count=count, chosen=chosen, normalised=normalised)


def _qwen3_count(config: Fields) -> int:
    """Released folders say num_experts, transformers 5 writes num_local_experts."""
    named = {config.whole(key) for key in ("num_experts", "num_local_experts") if config.get(key) is not None}
    _refuse(config, len(named) > 1, "num_local_experts", "equal to num_experts")
    return named.pop() if named else 128


def _refuse(config: Fields, is_wrong: bool, key: str, expected: str) -> None:
    if is_wrong:
        raise config.wrong(key, expected)
