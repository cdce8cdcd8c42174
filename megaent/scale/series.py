"""Which runs are measured: a base, and one thing varied at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from megaent.errors import ConfigError
from megaent.small_models.random_model import ModelSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run. Sizes of the layout divide ``ranks``; what is left are replicas."""

    ranks: int = 1
    tp: int = 1
    pp: int = 1
    cp: int = 1
    prompts: int = 8
    group: int = 4
    tokens: int = 64  # that a response may have; a random model hardly ends sooner
    pack: int = 1024  # tokens of a microbatch
    sizes: ModelSizes = field(default_factory=ModelSizes)

    @property
    def name(self) -> str:
        layout = f"r{self.ranks}-tp{self.tp}-pp{self.pp}-cp{self.cp}"
        batch = f"p{self.prompts}-g{self.group}-t{self.tokens}-k{self.pack}"
        return f"{layout}-{batch}-v{self.sizes.vocab}-h{self.sizes.hidden}-l{self.sizes.layers}"

    @property
    def words(self) -> list[str]:
        """That start it, but for the model's path and the run's directory."""
        return [
            "data=chain_sum",
            "method=[grpo,entropy_bonus]",  # a random model is never right, and advantages alone would be 0
            f"rollout.prompts_per_step={self.prompts}",
            f"rollout.group_size={self.group}",
            f"rollout.max_new_tokens={self.tokens}",
            f"parallel.tensor_model_parallel_size={self.tp}",
            f"parallel.pipeline_model_parallel_size={self.pp}",
            f"parallel.context_parallel_size={self.cp}",
            f"parallel.microbatch_tokens={self.pack}",
            "parallel.kept_graphs_gib=0",  # score and update apart, as the plan has them
            "run.tensorboard=false",
            "run.tables_mb=0",
            "run.responses_kept=0",
            "checkpoint.minutes=0",
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """``points`` by the value that was varied."""

    name: str
    title: str
    unit: str
    points: dict[int, Point]


BASE = Point()


def all_series(most_ranks: int) -> list[Series]:
    """Of layouts only those that ``most_ranks`` processes allow."""
    ranks = [count for count in (1, 2, 4, 8) if count <= most_ranks]
    vary = {
        "strong": ("More ranks for the same batch", "ranks", {n: replace(BASE, ranks=n) for n in ranks}),
        "weak": (
            "More ranks, and as many more prompts",
            "ranks",
            {n: replace(BASE, ranks=n, prompts=BASE.prompts * n) for n in ranks},
        ),
        "tp": ("Tensor parallel", "ranks", {n: replace(BASE, ranks=n, tp=n) for n in ranks if n <= 4}),
        "pp": ("Pipeline parallel", "stages", {n: replace(BASE, ranks=n, pp=n) for n in ranks if n <= 4}),
        "cp": ("Context parallel", "ranks", {n: replace(BASE, ranks=n, cp=n) for n in ranks if n <= 4}),
        "length": (
            "Longer responses",
            "tokens a response",
            {n: replace(BASE, tokens=n, pack=max(BASE.pack, 4 * n)) for n in (32, 64, 128, 256)},
        ),
        "vocabulary": (
            "A larger vocabulary",
            "tokens of the vocabulary",
            {n: replace(BASE, sizes=replace(BASE.sizes, vocab=n)) for n in (512, 4096, 32768)},
        ),
        "group": (
            "Larger groups",
            "responses of a prompt",
            {n: replace(BASE, group=n) for n in (2, 4, 8, 16)},
        ),
    }
    return [
        Series(name=name, title=title, unit=unit, points=points)
        for name, (title, unit, points) in vary.items()
    ]


def chosen_series(names: str, most_ranks: int) -> list[Series]:
    """``names`` separated by commas, or ``all``. Raises ConfigError for one that is none."""
    known = {series.name: series for series in all_series(most_ranks)}
    if names == "all":
        return list(known.values())
    asked = names.split(",")
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ConfigError(f"there is no series {unknown[0]!r}; known are {', '.join(known)}, or all")
    return [known[name] for name in asked]
