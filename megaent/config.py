"""The schema of a run: typed dataclasses with the checks that each can make of its own fields.

Everything that can be refused is refused here, before a model is built. Below the command line no
function takes a configuration; each takes the values it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from omegaconf import MISSING

from megaent.options import require, require_fraction, require_positive

# ---------------------------------------------------------------- the run


@dataclass
class RunConfig:
    dir: Optional[str] = None  # noqa: UP045 - OmegaConf reads Optional; default runs/<name>-<time>
    name: str = "train"
    responses_kept: int = 4  # responses of every step written to responses.md
    tensorboard: bool = True
    threads: int = 0  # torch threads a process; 0 keeps OMP_NUM_THREADS or torch's choice
    timeout_s: float = 1800.0  # limit of every wait on another process
    canary_every: int = 10  # steps between checks of the ops against the reference backend; 0 never

    def __post_init__(self) -> None:
        require(self.canary_every >= 0, f"run.canary_every must be 0 or more, got {self.canary_every}")


@dataclass
class CheckpointConfig:
    every: int = 0  # steps between checkpoints; 0 saves only the last
    keep: int = 2  # newest checkpoints kept; at least 2, so that a damaged one has a predecessor

    def __post_init__(self) -> None:
        require(self.every >= 0, f"checkpoint.every must be 0 or more, got {self.every}")
        require(self.keep >= 2, f"checkpoint.keep must be 2 or more, got {self.keep}")


@dataclass
class EvaluateConfig:
    every: int = 0  # steps between evaluations; 0 evaluates only where an experiment asks
    prompts: int = 256
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 12345
    at_start: bool = False  # also before the first step, and after the last

    def __post_init__(self) -> None:
        require(self.every >= 0, f"evaluate.every must be 0 or more, got {self.every}")
        require_positive(
            "evaluate", prompts=self.prompts, group_size=self.group_size, temperature=self.temperature
        )
        require_fraction("evaluate", top_p=self.top_p)


@dataclass
class OptimConfig:
    lr: float = 1e-6
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_grad: float = 1.0  # global norm; 0 switches clipping off
    warmup_steps: int = 0  # optimiser steps of linear warm-up, then constant
    minibatches: int = 1  # optimiser steps a rollout batch, whole groups in prompt order

    def __post_init__(self) -> None:
        require_positive("optim", eps=self.eps, minibatches=self.minibatches)
        require(self.lr >= 0, f"optim.lr must be 0 or more, got {self.lr}")
        require(self.clip_grad >= 0, f"optim.clip_grad must be 0 or more, got {self.clip_grad}")
        require(self.warmup_steps >= 0, f"optim.warmup_steps must be 0 or more, got {self.warmup_steps}")


@dataclass
class ParallelConfig:
    """Megatron's own names; data parallelism is what remains of the world size."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: Optional[int] = None  # noqa: UP045
    context_parallel_size: int = 1
    sequence_parallel: bool = False
    microbatch_tokens: int = 8192  # prompt and response tokens a microbatch, at most

    def __post_init__(self) -> None:
        require_positive(
            "parallel",
            tensor_model_parallel_size=self.tensor_model_parallel_size,
            pipeline_model_parallel_size=self.pipeline_model_parallel_size,
            context_parallel_size=self.context_parallel_size,
            microbatch_tokens=self.microbatch_tokens,
        )
        require(
            not self.sequence_parallel or self.tensor_model_parallel_size > 1,
            "parallel.sequence_parallel=true has no effect without tensor parallelism; set "
            "parallel.tensor_model_parallel_size to 2 or more, or sequence_parallel=false",
        )
        vpp = self.virtual_pipeline_model_parallel_size
        require(
            vpp is None or (vpp > 1 and self.pipeline_model_parallel_size > 1),
            f"parallel.virtual_pipeline_model_parallel_size={vpp} needs at least 2 virtual stages "
            "on at least 2 pipeline stages; raise parallel.pipeline_model_parallel_size or leave it null",
        )

    @property
    def model_parallel_size(self) -> int:
        return (
            self.tensor_model_parallel_size * self.pipeline_model_parallel_size * self.context_parallel_size
        )


# ---------------------------------------------------------------- groups: model, data, rollout


@dataclass
class ModelConfig:
    """``model=hf``: a Hugging Face folder on this machine (Qwen2, Qwen3 or Llama)."""

    path: str = MISSING
    dtype: str = "float32"  # float32 | bfloat16 | float64
    implementation: str = "local"  # local | transformer_engine
    recompute: bool = False  # recompute every layer in the backward pass

    def __post_init__(self) -> None:
        require(
            self.dtype in ("float32", "bfloat16", "float64"),
            f"model.dtype must be float32, bfloat16 or float64, got {self.dtype!r}",
        )
        require(
            self.implementation in ("local", "transformer_engine"),
            f"model.implementation must be local or transformer_engine, got {self.implementation!r}",
        )


@dataclass
class DemoModelConfig(ModelConfig):
    """``model=demo``: a 0.1 M Qwen2 warmed up on teacher traces, made once and cached."""

    path: str = ""  # filled with the cached checkpoint
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 256
    warmup_steps: int = 330
    warmup_lr: float = 4e-3
    warmup_batch: int = 16
    warmup_seed: int = 0
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            "model",
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            warmup_steps=self.warmup_steps,
            warmup_batch=self.warmup_batch,
        )
        require(
            self.hidden_size % (2 * self.num_heads) == 0 and self.num_heads % self.num_kv_heads == 0,
            f"model.num_heads={self.num_heads} must divide model.hidden_size={self.hidden_size} into even "
            f"heads, and model.num_kv_heads={self.num_kv_heads} must divide model.num_heads",
        )


@dataclass
class DataConfig:
    """Fields that every task has."""

    name: str = MISSING
    train_prompts: int = 0  # distinct training prompts; 0 means as many as the task has
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.train_prompts >= 0, f"data.train_prompts must be 0 or more, got {self.train_prompts}")


@dataclass
class ChainSumConfig(DataConfig):
    """``data=chain_sum``: indexed chain sums, one token an integer (docs/tasks.md)."""

    name: str = "chain_sum"
    train_prompts: int = 1024
    operands_min: int = 2
    operands_max: int = 6
    largest: int = 3  # operands are 0 … largest
    teacher_error: float = 0.2  # per step of a teacher trace

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            2 <= self.operands_min <= self.operands_max <= 8,
            "data.operands_min and data.operands_max must satisfy 2 <= min <= max <= 8, got "
            f"{self.operands_min} and {self.operands_max}",
        )


@dataclass
class TwoStrategiesConfig(DataConfig):
    """``data=two_strategies``: sums modulo a number, answered at once or step by step (docs/tasks.md)."""

    name: str = "two_strategies"
    train_prompts: int = 256
    easy_fraction: float = 0.75  # of the training prompts: two numbers; the others have four or five
    modulus: int = 13
    careful_share: float = 0.02  # of the answers that the warm-up ends on: those with steps
    teacher_error: float = 0.05  # per result of a teacher trace

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.train_prompts > 0, "data.train_prompts must be above 0: this task has millions, got 0")
        require(7 <= self.modulus <= 64, f"data.modulus must lie in 7 to 64, got {self.modulus}")
        for name in ("easy_fraction", "careful_share", "teacher_error"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name} must lie in [0, 1], got {value}")


@dataclass
class AdditionConfig(DataConfig):
    """``data=addition``: few-shot addition for a real language model."""

    name: str = "addition"
    train_prompts: int = 2048
    digits: int = 1  # of the easy split
    hard_digits: int = 2  # of the hard split, evaluated beside the easy one
    hard_fraction: float = 0.0  # of the training prompts
    shots: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("data", digits=self.digits, hard_digits=self.hard_digits)
        require(
            0 <= self.hard_fraction <= 1,
            f"data.hard_fraction must lie in [0, 1], got {self.hard_fraction}",
        )


@dataclass
class JsonlConfig(DataConfig):
    """``data=jsonl``: any .jsonl, or .json array, of questions and answers."""

    name: str = "jsonl"
    path: str = MISSING
    eval_path: str = ""  # evaluation questions; "" holds out `eval_fraction` of `path`
    eval_fraction: float = 0.05
    question_key: str = ""  # "" finds question, problem, prompt or input
    answer_key: str = ""  # "" finds answer, solution, final_answer or target
    template: str = "chat"  # chat | plain
    instruction: str = "Reason step by step and put the final answer in \\boxed{}."
    timeout_s: float = 5.0  # of checking one answer
    drop_unusable: bool = False  # leave rows out that cannot be graded, instead of refusing the file

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.template in ("chat", "plain"),
            f"data.template must be chat or plain, got {self.template!r}",
        )


@dataclass
class RolloutConfig:
    """Fields that every engine has."""

    name: str = MISSING
    prompts_per_step: int = 16
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 96
    mismatch_limit: float = 0.0  # nats, mean |log_prob_old - log_prob_engine|; 0 only reports
    staleness: int = 0  # steps that generation runs ahead of training; 0 is synchronous, 1 one step off

    def __post_init__(self) -> None:
        require_positive(
            "rollout",
            prompts_per_step=self.prompts_per_step,
            group_size=self.group_size,
            temperature=self.temperature,
            max_new_tokens=self.max_new_tokens,
        )
        require_fraction("rollout", top_p=self.top_p)
        require(self.staleness >= 0, f"rollout.staleness must be 0 or more, got {self.staleness}")


@dataclass
class EmbeddedConfig(RolloutConfig):
    """``rollout=embedded``: in this process, batched, with a KV cache."""

    name: str = "embedded"
    batch_size: int = 128  # responses decoded together
    dtype: str = ""  # "" takes the model's

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("rollout", batch_size=self.batch_size)
        require(
            self.staleness <= 1,
            f"rollout.staleness must be 0 or 1 with rollout=embedded, got {self.staleness}: it takes no new "
            "weights in the middle of a response, so that more has no effect",
        )


@dataclass
class FakeConfig(RolloutConfig):
    """``rollout=fake``: deterministic tokens, no model; for tests of the loop."""

    name: str = "fake"


@dataclass
class TrainConfig:
    """The root. ``method`` holds one node per chosen method, filled from the registry."""

    seed: int = 0
    steps: int = 100
    device: str = "auto"  # auto | cpu | cuda
    run: RunConfig = field(default_factory=RunConfig)
    model: Any = MISSING
    data: Any = MISSING
    rollout: Any = MISSING
    method: Any = MISSING
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        require(self.steps >= 0, f"steps must be 0 or more, got {self.steps}")
        require(
            self.device in ("auto", "cpu", "cuda"),
            f"device must be auto, cpu or cuda, got {self.device!r}",
        )
