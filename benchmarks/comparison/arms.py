"""The comparison's tasks and arms: methods, what a task's scale asks of them, settings to tune over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """One experiment of configs/, as the comparison runs it."""

    experiment: str
    longest: int  # tokens of a response
    easy: str  # split of the evaluation
    hard: str
    lr: float  # of the experiment
    words: tuple[str, ...] = ()
    own_start: bool = True
    """Whether every seed warms its own model up; else all start from one, and vary data and sampling."""


SCALES = {
    "worked_sums": Scale("worked_sums", 48, "easy", "hard", 3e-4, own_start=False),
    "hidden_numbers": Scale("hidden_numbers", 10, "easy", "hard", 6e-4, own_start=False),
    "chain_sum": Scale("demo", 96, "n=3", "n=6", 6e-4),
    "two_strategies": Scale("two_strategies", 40, "easy", "hard", 3e-4),
    "smollm2": Scale(
        "smollm2_addition",
        8,
        "easy",
        "hard",
        1e-5,
        ("evaluate.every=0", "checkpoint.every=0", "evaluate.prompts=64", "evaluate.group_size=8"),
        own_start=False,
    ),
}


@dataclass(frozen=True)
class Arm:
    """A method, what the task's scale asks of it, and the settings to tune over, the published one first."""

    method: str
    settings: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = ()
    tuned_as: str = ""
    """The arm whose setting it takes, when it is not tuned itself."""


def arms(task: str) -> dict[str, Arm]:
    scale = SCALES[task]
    tokens = f"method.max_length={scale.longest}"
    rising = ("method.reward_at_limit=0.9", "method.compress_share=0.25")
    stronger = ("method.target=0.4", "method.high=0.05", "method.delta=0.002")
    return {
        # All share the experiment's learning rate, so GRPO has nothing to tune; faster is an arm of its own.
        "grpo": Arm("grpo", ((),)),
        "grpo_faster": Arm("grpo", over("optim.lr", _rounded(scale.lr * 5 / 3))),
        "linear_length": Arm("linear_length", over("method.coef", 0.1, 0.3, 0.02), (tokens,)),
        "ceeh_me": Arm("ceeh", (("method.lam0=0.001",), ("method.beta=0.02", "method.lam0=0.005"),
                                ("method.lam0=0.005",))),
        "ceeh_ea": Arm("ceeh", (("method.alpha=0.4",), ("method.beta=0.02", "method.alpha=0.1"),
                                ("method.alpha=0.1",)), ("method.variant=ea",)),
        "egrc": Arm("egrc", (*over("method.compress_share", 0.5, 0.25), rising), (tokens,)),
        # The paper's order ablation, compression after the policy was trained.
        "egrc_reverse": Arm("egrc", (), (tokens, "method.order=explore_first"), tuned_as="egrc"),
        "etr": Arm("etr", over("method.lam", 5e-3, 5e-2, 5e-4)),
        "kl_cov": Arm("kl_cov", over("method.fraction", 2e-3, 2e-2, 0.1)),
        "clip_cov": Arm("clip_cov", over("method.fraction", 2e-4, 2e-2, 2e-3)),
        "forking_tokens": Arm(
            "forking_tokens", over("method.fraction", 0.2, 0.5, 0.8), ("method.max_batches=0",)
        ),
        "entropy_bonus": Arm("entropy_bonus", over("method.coef", 3e-3, 1e-2, 3e-2)),
        "adaptive_entropy": Arm("adaptive_entropy", (("method.target=0.2",), stronger)),
        "dapo": Arm("dapo", over("method.max_batches", 1, 3, 2)),
        "less": Arm("less", over("method.min_length", 5, 2, 8)),
        "sent": Arm("sent", (("method.beta_low=0.05",), ("method.stages=1",), ("method.beta_low=0.0125",))),
        "ee": Arm("ee", over("method.reward_at_limit", 0.1, 0.9, 0.3), (tokens,)),
        # What the papers leave out: one idea of several, alone.
        "ceeh_length_alone": Arm("ceeh", (), ("method.lam0=0",), tuned_as="ceeh_me"),
        "ceeh_entropy_alone": Arm("ceeh", (), ("method.beta=0",), tuned_as="ceeh_me"),
        "ceeh_ungated": Arm("ceeh", (), ("method.hard_mult=1",), tuned_as="ceeh_me"),
    }  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.1g}")


def over(key: str, *values: object) -> tuple[tuple[str, ...], ...]:
    """One setting for each value of an option."""
    return tuple((f"{key}={value}",) for value in values)


def overrides(task: str, arm: Arm, setting: Sequence[str], seed: int, steps: int | None) -> list[str]:
    """The words of ``megaent train``. An arm's own words win over the setting that it took from another."""
    scale = SCALES[task]
    own = {word.partition("=")[0] for word in arm.words}
    words = [
        f"experiment={scale.experiment}",
        f"method={arm.method}",
        f"seed={seed}",
        f"data.seed={seed}",
        "run.threads=1",
        "run.tensorboard=false",
        "run.responses_kept=0",
        "run.table_responses=16",
        *([f"model.warmup_seed={seed}"] if scale.own_start else []),
        *scale.words,
        *arm.words,
        *(word for word in setting if word.partition("=")[0] not in own),
    ]
    return words if steps is None else [*words, f"steps={steps}"]
