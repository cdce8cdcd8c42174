"""A published measurement as a question to the plan, and the plan's value in the measurement's own unit."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from megaent.errors import ConfigError
from megaent.plan.cluster import Cluster, find_cluster
from megaent.plan.constants import Constants
from megaent.plan.generation import Engines
from megaent.plan.layout import RECOMPUTE, Layout
from megaent.plan.lengths import Lengths
from megaent.plan.machine import GIB, Machine
from megaent.plan.memory import activation_bytes, train_memory
from megaent.plan.shape import Shape
from megaent.plan.shapes import SHAPES, check_claims, find_shape, guessed_shape, known_as
from megaent.plan.step import (
    Batch,
    engine_memory,
    file_seconds,
    step_seconds,
    trained,
    update_work,
)
from megaent.plan.training import train_seconds
from megaent.plan.work import Work

_NUMBERS = ("params_b", "hidden", "layers", "n_gpus", "tp", "pp", "cp", "ep", "seq_len", "global_batch")
_NUMBERS += ("micro_batch",)
COLUMNS = ("source", "model", "gpu", "precision", "recompute", "workload", "metric", "value", "unit", "notes")
COLUMNS += _NUMBERS
_HYBRID = re.compile(r"nano|mamba|hybrid|qwen3\.5", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """What a row of training says, with what its notes say in words."""

    shape: Shape
    cluster: Cluster
    layout: Layout
    work: Work
    seq_len: int
    global_batch: int
    is_complete: bool  # it states its microbatch and what it recomputes; where it does not, nothing is
    writes_weights: bool = False  # a whole model into a file, every step


class UnplannedError(ConfigError):
    """A row that lacks what a plan needs, or of a model that is no plain transformer."""


def read_rows(path: Path) -> list[dict[str, str]]:
    """Raises ConfigError for a file that is absent, lacks a column or has a value that is no number."""
    if not path.is_file():
        raise ConfigError(f"{path} is no file")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        lacking = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if lacking:
            raise ConfigError(f"{path} lacks the columns {', '.join(lacking)}")
        rows = [{name: row[name] or "" for name in COLUMNS} for row in reader]
    for number, row in enumerate(rows, start=2):
        for name in (*_NUMBERS, "value"):
            if not _is_number(row[name]) and (row[name].strip() or name == "value"):
                raise ConfigError(f"{path}, line {number}: {name} must be a number, got {row[name]!r}")
    return rows


def _is_number(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def read_row(row: Mapping[str, str], constants: Constants) -> TrainRow:
    """Raises UnplannedError, or ConfigError for a model or a card that is unknown."""
    if _HYBRID.search(row["model"]):
        raise UnplannedError(f"{row['model']} is no plain transformer")
    shape, is_known = _row_shape(row)
    cluster = find_cluster(row["gpu"])
    notes = row["notes"]
    cards, seq_len = _needed(row, "n_gpus"), _needed(row, "seq_len")
    global_batch, micro = _needed(row, "global_batch"), _whole(row, "micro_batch")
    layout = _layout(row, shape, cards, notes)
    work = Work(
        tokens=(micro or 1) * seq_len,
        context=seq_len,
        microbatches=max(1, round(global_batch / (layout.dp * (micro or 1)))),
        precision=_precision(row["precision"]),
        stack=_stack(row, notes),
        head="chunked" if re.match(r"RL |\+chunked|\+activation", notes) else "logits",
        attention=_attention(row, notes),
        states="bf16" if "bf16 AdamW" in notes else "fp32",
        lora="LoRA" in notes,
    )
    is_complete = is_known and row["recompute"] in RECOMPUTE and micro > 0
    if not micro:
        work = _best_microbatch(Machine(cluster, constants), shape, layout, work)
    return TrainRow(
        shape=shape, cluster=cluster, layout=layout, work=work, seq_len=seq_len,
        global_batch=global_batch, is_complete=is_complete, writes_weights=_writes_weights(row),
    )  # fmt: skip


def _writes_weights(row: Mapping[str, str]) -> bool:
    """prime-rl's trainer of RL publishes through files, without a server too; of LoRA the adapter alone."""
    return "prime-rl" in row["source"] and row["notes"].startswith("RL full")


def _row_shape(row: Mapping[str, str]) -> tuple[Shape, bool]:
    """The named shape; for an unknown name one of the row's hidden size, layers and parameters."""
    hidden, layers = _whole(row, "hidden"), _whole(row, "layers")
    if known_as(row["model"]) in SHAPES:
        shape = find_shape(row["model"])
        check_claims(shape, hidden=hidden, layers=layers, params_b=0.0)
        return shape, True
    if not (hidden and layers and row["params_b"]):
        raise UnplannedError(f"{row['model']} is unknown, and hidden, layers or params_b is not stated")
    return guessed_shape(row["model"], hidden=hidden, layers=layers, params_b=float(row["params_b"])), False


def _layout(row: Mapping[str, str], shape: Shape, cards: int, notes: str) -> Layout:
    tp, pp, cp, ep = (_whole(row, name) or 1 for name in ("tp", "pp", "cp", "ep"))
    if cards % (tp * pp * cp):
        raise UnplannedError(f"{cards} cards do not divide into TP{tp} PP{pp} CP{cp}")
    virtual = re.search(r"\bVP ?(\d+)", notes)
    without_sp = row["precision"] == "fp16" and "sequence parallel +" not in notes
    stack = _stack(row, notes)
    layout = Layout(
        tp=tp, pp=pp, vpp=int(virtual.group(1)) if virtual and pp > 1 else 1, cp=cp, ep=ep,
        dp=cards // (tp * pp * cp), sequence_parallel=tp > 1 and not without_sp,
        recompute=row["recompute"] if row["recompute"] in RECOMPUTE else "none",
        sharding="full" if stack in ("compiled", "eager") else "optimizer",
    )  # fmt: skip
    if layout.ep > 1 and not shape.experts:
        raise UnplannedError(f"EP{ep} of a dense model")
    return layout


def _best_microbatch(machine: Machine, shape: Shape, layout: Layout, work: Work) -> Work:
    """Where a row does not say how long a microbatch is: the fastest that fits, of 1 to 16 sequences."""
    sizes = [count for count in (1, 2, 4, 8, 16) if work.microbatches % count == 0]
    tried = [
        replace(work, tokens=work.tokens * count, microbatches=work.microbatches // count) for count in sizes
    ]
    limit = machine.cluster.memory_gib * GIB
    fitting = [one for one in tried if train_memory(machine.constants, shape, layout, one).total <= limit]
    return min(fitting or tried[:1], key=lambda one: train_seconds(machine, shape, layout, one).total)


def _stack(row: Mapping[str, str], notes: str) -> str:
    source = row["source"].lower()
    if "fsdp" not in notes.lower() and "torchtune" not in source and "automodel" not in source:
        return "megatron"
    if "megatron-bridge" in source:
        return "megatron"
    # torchtune's table adds one flag a row, and the first is compile.
    return "compiled" if re.search(r"compile|TE\+|pretrain|^\+", notes) else "eager"


def _attention(row: Mapping[str, str], notes: str) -> str:
    """PyTorch's own is the second version; prime-rl's page states the third wherever it names none here."""
    if row["precision"] == "fp16":
        return "unfused"
    if "FA2" in notes:
        return "flash2"
    is_newest = _stack(row, notes) == "megatron" or "FA3" in notes or "prime-rl" in row["source"]
    return "flash" if is_newest else "flash2"


def _precision(text: str) -> str:
    return "fp8" if text.startswith("fp8") else text


def _whole(row: Mapping[str, str], name: str) -> int:
    text = row[name].strip()
    return int(float(text)) if text else 0


def _needed(row: Mapping[str, str], name: str) -> int:
    if not _whole(row, name):
        raise UnplannedError(f"{name} is not stated")
    return _whole(row, name)


# ---------------------------------------------------------------- in the row's own unit


def predicted(row: Mapping[str, str], read: TrainRow, constants: Constants) -> float:
    """The plan's value of ``row['metric']``. Raises UnplannedError for a metric that it does not know."""
    machine = Machine(read.cluster, constants)
    seconds = train_seconds(machine, read.shape, read.layout, read.work)
    published = file_seconds(machine, read.shape) if read.writes_weights else 0.0
    memory = train_memory(constants, read.shape, read.layout, read.work)
    metric, tokens = row["metric"], read.global_batch * read.seq_len
    per_card = tokens / seconds.total / read.layout.cards
    known = {
        "step_time": lambda: seconds.total,
        "micro_step_time": lambda: (seconds.total + published) / read.work.microbatches,
        "tokens_per_s_per_gpu": lambda: per_card,
        "hardware_tflops_per_gpu": lambda: per_card * hardware_operations(read.shape, read.seq_len) / 1e12,
        "model_tflops_per_gpu": lambda: per_card * model_operations(read.shape, read.seq_len) / 1e12,
        "peak_memory": lambda: memory.allocated / GIB,
        "activation_memory": lambda: activation_bytes(constants, read.shape, read.layout, read.work) / GIB,
        "param_optimizer_memory": lambda: memory.states / GIB,
    }
    if metric not in known:
        raise UnplannedError(f"{metric} is no value of a plan")
    return known[metric]()


def model_operations(shape: Shape, seq_len: int) -> float:
    """Forward and backward of a token, the whole square of attention counted, as NeMo's tables do."""
    head = shape.hidden * shape.padded_vocab
    weights = shape.layers * shape.active_matrices + head
    return 6 * weights + 12 * shape.layers * seq_len * shape.query


def hardware_operations(shape: Shape, seq_len: int) -> float:
    """With the layers' forward computed twice: equation 3 of 2104.04473, for a token."""
    layers = 8 * shape.layers * (shape.active_matrices + 2 * seq_len * shape.hidden)
    return layers + 6 * shape.hidden * shape.padded_vocab


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    value: float
    is_complete: bool
    has_experts: bool


def predict(row: Mapping[str, str], constants: Constants) -> Predicted:
    """The plan's value of a row in the row's unit. Raises ConfigError where there is none."""
    if row["workload"] == "rl_step":
        return _predict_step(row, constants)
    read = read_row(row, constants)
    value = predicted(row, read, constants)
    return Predicted(value=value, is_complete=read.is_complete, has_experts=read.shape.experts > 0)


# ---------------------------------------------------------------- steps of reinforcement learning

_PROMPT_TOKENS = 120  # of OpenMathInstruct-2, from tokens a second, step time and mean length of two rows


def _predict_step(row: Mapping[str, str], constants: Constants) -> Predicted:
    """A row of NeMo-RL: on policy on the same cards, or off policy with half of them generating."""
    if _HYBRID.search(row["model"]):
        raise UnplannedError(f"{row['model']} is no plain transformer")
    notes = row["notes"]
    samples, mean = _noted(r"(\d+) samples", notes), _noted(r"mean length (\d+)", notes)
    shape, cluster = find_shape(row["model"]), find_cluster(row["gpu"])
    cards, staleness = _needed(row, "n_gpus"), _noted(r"(\d+)-step off", notes, 0)
    training = cards // 2 if staleness else cards
    layout = _layout(row, shape, training, "")
    machine = Machine(cluster, constants)
    batch = Batch(
        prompts=samples // 32, group=32, prompt_tokens=_PROMPT_TOKENS,
        lengths=Lengths(mean=mean, longest=_needed(row, "seq_len"), spread=constants.length_spread),
        optimizer_steps=max(1, samples // _needed(row, "global_batch")), reference=True, staleness=staleness,
    )  # fmt: skip
    plain = Work(tokens=1, context=1, microbatches=1, precision=_precision(row["precision"]), head="logits")
    work = update_work(batch, layout, _needed(row, "seq_len") * max(1, _whole(row, "micro_batch")), plain)
    held = 0.0  # NeMo-RL moves the trainer's states to the host
    tp = _noted(r"TP ?(\d+)", notes, 1)
    memory = engine_memory(machine, held, colocated=not staleness)
    fp8 = "FP8 train+gen" in notes
    engines = Engines(cards=cards - training or cards, tp=tp, memory=memory, weight_bytes=1 if fp8 else 2)
    done = trained(machine, shape, layout, work, batch)
    found = step_seconds(machine, shape, engines, batch, done)
    known = {
        "step_time": found.total,
        "phase_time_train": done.update.total,
        "phase_time_generation": found.generate.total,
        "phase_time_logprob": done.score + done.reference,
        "phase_time_refit": found.publication,
    }
    if row["metric"] not in known:
        raise UnplannedError(f"{row['metric']} is no value of a plan")
    is_complete = staleness == 0 and row["recompute"] in RECOMPUTE
    return Predicted(value=known[row["metric"]], is_complete=is_complete, has_experts=shape.experts > 0)


def _noted(pattern: str, notes: str, otherwise: int | None = None) -> int:
    found = re.search(pattern, notes)
    if found is None and otherwise is None:
        raise UnplannedError(f"the notes do not state {pattern!r}")
    return int(found.group(1)) if found else int(otherwise or 0)
