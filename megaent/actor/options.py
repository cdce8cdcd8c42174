"""``model=hf``, ``optim`` and ``parallel``: what an actor can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from megaent.actor.recompute import RecomputeOptions
from megaent.actor.router_options import RouterOptions
from megaent.actor.sizes import Sizes
from megaent.options import MISSING, require, require_positive


@dataclass
class ModelOptions:
    """``model=hf``: a Hugging Face folder on this machine (docs/tasks.md says which)."""

    path: str = MISSING
    dtype: str = "float32"  # float32 | bfloat16 | float64 | auto: the faster of the first two here
    implementation: str = "local"  # local | transformer_engine
    recompute: RecomputeOptions = field(default_factory=RecomputeOptions)
    router: RouterOptions = field(default_factory=RouterOptions)

    def __post_init__(self) -> None:
        require(
            self.dtype in ("float32", "bfloat16", "float64", "auto"),
            f"model.dtype must be float32, bfloat16, float64 or auto, got {self.dtype!r}",
        )
        require(
            self.implementation in ("local", "transformer_engine"),
            f"model.implementation must be local or transformer_engine, got {self.implementation!r}",
        )


@dataclass
class OptimOptions:
    lr: float = 1e-6
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_grad: float = 1.0  # global norm; 0 switches clipping off
    warmup_steps: int = 0  # optimizer steps of linear warm-up, then constant
    minibatches: int = 1  # optimizer steps a rollout batch, whole groups in prompt order

    def __post_init__(self) -> None:
        require_positive("optim", eps=self.eps, minibatches=self.minibatches)
        require(self.lr >= 0, f"optim.lr must be 0 or more, got {self.lr}")
        require(self.clip_grad >= 0, f"optim.clip_grad must be 0 or more, got {self.clip_grad}")
        require(self.warmup_steps >= 0, f"optim.warmup_steps must be 0 or more, got {self.warmup_steps}")


@dataclass
class ParallelOptions:
    """Megatron's own names; data parallelism is what remains of the world size."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: Optional[int] = None  # noqa: UP045
    # Layers of the first and the last stage, where not every stage has as many; the others share the rest.
    num_layers_in_first_pipeline_stage: Optional[int] = None  # noqa: UP045
    num_layers_in_last_pipeline_stage: Optional[int] = None  # noqa: UP045
    context_parallel_size: int = 1
    sequence_parallel: bool = False
    # Of a model with experts: processes that share out the experts of a layer, and the tensors of one expert.
    expert_model_parallel_size: int = 1
    expert_tensor_parallel_size: int = 1
    # Share the optimizer's state out over the replicas; null: where there is more than one.
    distributed_optimizer: Optional[bool] = None  # noqa: UP045
    microbatch_tokens: int = 8192  # prompt and response tokens a microbatch, at most
    # Read a prompt once for all its responses in a microbatch; null: wherever that is possible.
    share_prompts: Optional[bool] = None  # noqa: UP045
    # Graphs of scored packs that the first optimizer step may use again, at most; a pipeline keeps none.
    kept_graphs_gib: float = 1.0

    def __post_init__(self) -> None:
        require_positive(
            "parallel",
            tensor_model_parallel_size=self.tensor_model_parallel_size,
            pipeline_model_parallel_size=self.pipeline_model_parallel_size,
            context_parallel_size=self.context_parallel_size,
            expert_model_parallel_size=self.expert_model_parallel_size,
            expert_tensor_parallel_size=self.expert_tensor_parallel_size,
            microbatch_tokens=self.microbatch_tokens,
        )
        require(
            self.kept_graphs_gib >= 0,
            f"parallel.kept_graphs_gib must be 0 or more, got {self.kept_graphs_gib}",
        )
        require(
            not self.sequence_parallel or self.tensor_model_parallel_size > 1,
            "parallel.sequence_parallel=true has no effect without tensor parallelism; set "
            "parallel.tensor_model_parallel_size to 2 or more, or sequence_parallel=false",
        )
        for name in ("num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"):
            layers = getattr(self, name)
            require(
                layers is None or (layers > 0 and self.pipeline_model_parallel_size > 1),
                f"parallel.{name}={layers} needs 1 layer or more and 2 pipeline stages or more; raise "
                "parallel.pipeline_model_parallel_size or leave it null",
            )
        vpp = self.virtual_pipeline_model_parallel_size
        require(
            vpp is None or (vpp > 1 and self.pipeline_model_parallel_size > 1),
            f"parallel.virtual_pipeline_model_parallel_size={vpp} needs at least 2 virtual stages "
            "on at least 2 pipeline stages; raise parallel.pipeline_model_parallel_size or leave it null",
        )

    def shares_prompts(self, *, implementation: str, device: str) -> bool:
        """Whether a microbatch holds a prompt once. Raises ConfigError where that was asked for in vain."""
        reasons = {
            "parallel.context_parallel_size above 1 splits every sequence": self.context_parallel_size > 1,
            f"model.implementation={implementation} attends to whole sequences": implementation != "local",
            "shared prompts have no attention kernel on a GPU yet": device != "cpu",
        }
        reason = next((text for text, holds in reasons.items() if holds), None)
        require(
            not (self.share_prompts and reason),
            f"parallel.share_prompts=true is not possible here: {reason}; leave it null or false",
        )
        return reason is None if self.share_prompts is None else self.share_prompts

    def require_experts_exchange(self, *, device: str) -> None:
        """Raises ConfigError for what gloo cannot exchange."""
        require(
            device != "cpu" or 1 in (self.expert_model_parallel_size, self.expert_tensor_parallel_size),
            f"parallel.expert_model_parallel_size={self.expert_model_parallel_size} with "
            f"expert_tensor_parallel_size={self.expert_tensor_parallel_size} gathers a different number of "
            "tokens from every rank, which gloo cannot; on a CPU leave one of the two at 1",
        )

    def shares_optimizer(self, world: int) -> bool:
        """Whether each replica keeps only its share of the optimizer's state. Raises ConfigError where that
        was asked for and nobody is there to share with.
        """
        holders = world * self.context_parallel_size // self.sizes.model_parallel
        require(
            not self.distributed_optimizer or holders > 1,
            f"parallel.distributed_optimizer=true has no effect: {world} processes are one replica of one "
            "context rank, which holds the whole state; start more processes, or leave it null",
        )
        if self.distributed_optimizer is None:
            return world > self.sizes.model_parallel
        return self.distributed_optimizer

    @property
    def sizes(self) -> Sizes:
        return Sizes(
            tp=self.tensor_model_parallel_size,
            pp=self.pipeline_model_parallel_size,
            vpp=self.virtual_pipeline_model_parallel_size,
            first_layers=self.num_layers_in_first_pipeline_stage,
            last_layers=self.num_layers_in_last_pipeline_stage,
            cp=self.context_parallel_size,
            sequence_parallel=self.sequence_parallel,
            ep=self.expert_model_parallel_size,
            etp=self.expert_tensor_parallel_size,
        )
