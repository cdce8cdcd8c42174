"""A Hugging Face configuration as a Megatron GPT model whose last stage ends in token statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_layer_local_spec,
    get_gpt_layer_with_transformer_engine_spec,
)
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megaent.actor.attention import PackedAttention, PackedSequences, RMSNorm
from megaent.actor.canary import disagreement
from megaent.actor.precision import Precision, megatron_options
from megaent.actor.recompute import RecomputeOptions
from megaent.actor.rotary import Angles, inverse_frequencies, softmax_scale
from megaent.actor.router import with_our_router
from megaent.actor.sizes import Sizes
from megaent.errors import ConfigError
from megaent.model_folder.architecture import Architecture
from megaent.ops import TokenStatistics, Vocabulary, linear_logprob_entropy


class PolicyModel(GPTModel):
    """GPTModel whose post-process step yields log-probabilities and entropies instead of logits.

    Only the rows that are learnt from reach the output weight, and no ``[N, V]`` logits are kept.
    """

    def __init__(
        self, *args: object, true_vocab_size: int, frequencies: Tensor | None, **kwargs: object
    ) -> None:
        """``frequencies`` [head_dim / 2]: the attention turns its queries and keys; None: Megatron does."""
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.true_vocab_size = true_vocab_size
        self.frequencies = frequencies

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        packed: PackedSequences,
        row: Tensor,
        target: Tensor,
        temperature: float,
        check: Tensor | None = None,
        nucleus_p: float | None = None,
    ) -> Tensor:
        """On the last stage [3 or 4, n]: log_prob and entropy of ``target`` [n] at ``row`` [n], the canary's
        ``disagreement`` at ``check`` (indices into n), 0 elsewhere, and the entropy over the nucleus of
        ``nucleus_p``, if any. On other stages the hidden states.
        """
        if self.frequencies is not None:
            frequency_I = self.frequencies.to(position_ids.device)
            packed = replace(packed, angles=Angles.at(position_ids[0], frequency_I, self.config.params_dtype))
        hidden = super().forward(
            input_ids,
            position_ids,
            attention_mask=None,
            packed_seq_params=packed,
        )
        if not self.post_process:
            return hidden
        return self._statistics(hidden, row, target, temperature, check, nucleus_p)

    def _postprocess(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:  # type: ignore[override]
        return hidden_states

    def _statistics(
        self,
        hidden: Tensor,
        row: Tensor,
        target: Tensor,
        temperature: float,
        check: Tensor | None,
        nucleus_p: float | None,
    ) -> Tensor:
        tp_group = self.pg_collection.tp
        if self.config.sequence_parallel:
            hidden = gather_from_sequence_parallel_region(
                hidden, tensor_parallel_output_grad=True, group=tp_group
            )
        else:
            hidden = copy_to_tensor_model_parallel_region(hidden, group=tp_group)
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        rows_ND = hidden[:, 0][row]
        shard = Vocabulary(tp_group.rank() * weight.shape[0], self.true_vocab_size, tp_group)
        asked = {"temperature": temperature, "nucleus_p": nucleus_p}
        stats = linear_logprob_entropy(rows_ND, weight, target, **asked, **shard._asdict())
        disagrees_N = torch.zeros_like(stats.log_prob)
        if check is not None and check.numel():
            delivered = TokenStatistics(stats.log_prob[check], stats.entropy[check])
            found_K = disagreement(
                rows_ND[check], weight, target[check], delivered, temperature=temperature, shard=shard
            )
            disagrees_N[check] = found_K.to(disagrees_N.dtype)
        nucleus = () if stats.nucleus_entropy is None else (stats.nucleus_entropy,)
        return torch.stack([stats.log_prob, stats.entropy, disagrees_N, *nucleus])


def transformer_config(
    architecture: Architecture,
    sizes: Sizes,
    *,
    dtype: torch.dtype,
    recompute: RecomputeOptions,
    implementation: str,
    precision: Precision,
) -> TransformerConfig:
    """Megatron's configuration of ``architecture`` under a layout."""
    on_gpu = torch.cuda.is_available()
    if implementation == "transformer_engine" and architecture.no_rope_layers and softmax_scale(architecture):
        raise ConfigError(
            "yarn beside layers without rotation needs a scale for each layer, which Transformer Engine is "
            "not given; set model.implementation=local"
        )
    return TransformerConfig(
        num_layers=architecture.num_layers,
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.num_heads,
        num_query_groups=architecture.num_kv_heads,
        kv_channels=architecture.head_dim,
        ffn_hidden_size=architecture.intermediate_size,
        normalization="RMSNorm",
        layernorm_epsilon=architecture.rms_norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=architecture.qkv_bias,
        qk_layernorm=architecture.qk_norm,
        softmax_scale=softmax_scale(architecture),
        no_rope_freq=_no_rope(architecture),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=not on_gpu,
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=sizes.tp,
        pipeline_model_parallel_size=sizes.pp,
        virtual_pipeline_model_parallel_size=sizes.vpp,
        context_parallel_size=sizes.cp,
        sequence_parallel=sizes.sequence_parallel,
        transformer_impl=implementation,
        variable_seq_lengths=sizes.vpp is None,  # interleaved schedules are given packs of one length
        **_experts(architecture, sizes, dtype, implementation),
        calculate_per_token_loss=True,  # no division by microbatches: the loss weights normalise
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        apply_rope_fusion=implementation == "transformer_engine",
        persist_layer_norm=False,
        batch_p2p_comm=on_gpu,
        **recompute.megatron(),
        **_uneven(sizes),
        **megatron_options(precision),  # type: ignore[arg-type]
    )


def _uneven(sizes: Sizes) -> dict[str, Any]:
    """Only where asked for: Megatron then wants the rest to divide."""
    return {
        name: value
        for name, value in (
            ("num_layers_in_first_pipeline_stage", sizes.first_layers),
            ("num_layers_in_last_pipeline_stage", sizes.last_layers),
        )
        if value is not None
    }


def _experts(
    architecture: Architecture, sizes: Sizes, dtype: torch.dtype, implementation: str
) -> dict[str, Any]:
    """No token is dropped, and the router is computed in fp32 (fp64 for a float64 model)."""
    dispatch = {"moe_token_dispatcher_type": "alltoall"}  # asked for by variable lengths, experts or not
    experts = architecture.experts
    if experts is None:
        return dispatch
    if implementation != "local":
        raise ConfigError(
            "experts run with model.implementation=local only: grouped products of Transformer Engine are "
            "not converted yet"
        )
    return dispatch | {
        "num_moe_experts": experts.count,
        "moe_router_topk": experts.chosen,
        "moe_router_pre_softmax": not experts.normalised,
        "moe_router_dtype": "fp64" if dtype == torch.float64 else "fp32",
        "moe_router_load_balancing_type": "none",
        "moe_ffn_hidden_size": architecture.intermediate_size,
        "expert_model_parallel_size": sizes.ep,
        "expert_tensor_parallel_size": sizes.etp,
    }


def layer_spec(architecture: Architecture, implementation: str) -> ModuleSpec:
    if implementation == "transformer_engine":
        return get_gpt_layer_with_transformer_engine_spec(qk_layernorm=architecture.qk_norm)
    spec = get_gpt_layer_local_spec(
        num_experts=architecture.experts.count if architecture.experts else None,
        normalization="RMSNorm",
        qk_layernorm=architecture.qk_norm,
    )
    layer, attention = spec.submodules, spec.submodules.self_attention.submodules
    layer.input_layernorm = layer.pre_mlp_layernorm = RMSNorm
    attention.core_attention = PackedAttention
    if architecture.experts:
        layer.mlp = with_our_router(layer.mlp)
    if architecture.qk_norm:
        attention.q_layernorm = attention.k_layernorm = RMSNorm
    return spec


def build_model(
    architecture: Architecture, config: TransformerConfig, *, vp_stage: int | None = None
) -> PolicyModel:
    """This rank's part of the model (one virtual stage of it), weights not yet loaded."""
    implementation = config.transformer_impl
    is_local = implementation == "local"
    frequencies = inverse_frequencies(architecture.rotary, architecture.head_dim)
    spec: ModuleSpec | TransformerBlockSubmodules = layer_spec(architecture, implementation)
    if is_local:
        num_layers = get_num_layers_to_build(config, vp_stage=vp_stage)
        spec = TransformerBlockSubmodules(layer_specs=[spec] * num_layers, layer_norm=RMSNorm)
    model = PolicyModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=architecture.padded_vocab_size,
        max_sequence_length=architecture.max_positions,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=vp_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=vp_stage),
        parallel_output=True,
        share_embeddings_and_output_weights=architecture.tie_embeddings,
        position_embedding_type="none" if is_local else "rope",
        rotary_base=architecture.rotary.theta,  # type: ignore[arg-type]
        rotary_percent=1.0,
        vp_stage=vp_stage,
        true_vocab_size=architecture.vocab_size,
        frequencies=frequencies if is_local else None,
    )
    if not is_local:
        # Megatron's own scaling has fixed parameters; angles are made of these frequencies at the first pass.
        model.rotary_pos_emb.inv_freq = frequencies.to(model.rotary_pos_emb.inv_freq.device)
    return model


def _no_rope(architecture: Architecture) -> list[int] | None:
    """Megatron's form: 1 for a layer that does not turn its queries and keys."""
    skipped = architecture.no_rope_layers
    return [int(layer in skipped) for layer in range(architecture.num_layers)] if skipped else None
