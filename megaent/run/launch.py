"""From a typed configuration to a trainer: everything is checked first, then built, then run."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import torch

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout, init_parallel, resolve_device
from megaent.actor.precision import Fp8, Fp8Simulation, Precision, Quantised, lacking, resolve, this_machine
from megaent.data.jsonl import JsonlOptions
from megaent.data.prompts import PromptSource
from megaent.data.registry import load_task
from megaent.data.task import Task
from megaent.errors import ConfigError
from megaent.loop.agreement import Agreement
from megaent.loop.ahead import source_of
from megaent.loop.collect import Collector
from megaent.loop.course import Course
from megaent.loop.generation import Generation
from megaent.loop.method_state import MethodState
from megaent.loop.prompt_draw import PromptDraw
from megaent.loop.trainer import Trainer
from megaent.model_folder.tokenizer import context_length
from megaent.objective.method import Schedule
from megaent.objective.weights import EngineMismatch
from megaent.reward.reward import make_reward, require_grader
from megaent.rollout.engine import RolloutEngine
from megaent.rollout.options import Leader
from megaent.rollout.sglang.options import SGLangOptions
from megaent.run.config import TrainConfig
from megaent.run.engines import build_engine
from megaent.run.fit import check_fit, longest_answer
from megaent.types import SamplingParams

log = logging.getLogger(__name__)


def check_before_building(config: TrainConfig) -> None:
    """What was not refused while the configuration was read, and needs torch or the method."""
    device = resolve_device(config.device)
    config.parallel.shares_prompts(implementation=config.model.implementation, device=device.type)
    config.parallel.require_experts_exchange(device=device.type)
    check_staleness(config.method, config.rollout.staleness)
    config.precision = chosen_precision(config)
    require_grader(getattr(config.data, "reward", "math"))


def chosen_precision(config: TrainConfig) -> Precision:
    """What is computed in on this machine. Raises ConfigError for what is not possible here."""
    dtype, implementation = config.model.dtype, config.model.implementation
    machine = this_machine()
    chosen = resolve(config.precision, dtype=dtype, implementation=implementation, machine=machine)
    if chosen.name != config.precision.name:
        why = lacking(Fp8(), dtype, implementation, machine) or f"{machine.card} has it"
        log.info("precision=%s is %s here: fp8 %s", config.precision.name, chosen.name, why)
    if isinstance(chosen, Fp8Simulation):
        log.info("precision=fp8_sim simulates FP8's rounding (%s) and computes in full", chosen.recipe)
    return chosen


def check_staleness(schedule: Schedule, staleness: int) -> None:
    """Refuse what cannot be drawn ahead: methods that ask according to the answers of the step before."""
    if not staleness:
        return
    methods = [phase.method for phase in schedule.phases]
    for piece, is_there in (
        ("dynamic sampling", any(method.sampling is not None for method in methods)),
        ("a second rollout", any(method.second_rollout is not None for method in methods)),
    ):
        if is_there:
            raise ConfigError(
                f"rollout.staleness={staleness} cannot be combined with {piece}, which asks "
                "for more after a step's first answers; set rollout.staleness=0, or the method's option to 0"
            )
    if not any(isinstance(weight, EngineMismatch) for method in methods for weight in method.loss.weights):
        log.warning(
            "rollout.staleness=%d without truncated importance sampling: the responses come from older "
            "weights and nothing corrects for it; method=[...,tis] does",
            staleness,
        )


def join(config: TrainConfig) -> Layout:
    """Set the threads, enter the parallel layout, and take rank 0's dtype: each measures what is ``auto``."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    layout = _enter(config)
    config.model.dtype = layout.from_rank_0(config.model.dtype)
    return layout


def _enter(config: TrainConfig) -> Layout:
    try:
        return init_parallel(
            config.parallel.sizes,
            device=resolve_device(config.device),
            timeout_s=config.run.timeout_s,
            seed=config.seed,
        )
    except (RuntimeError, ValueError) as error:
        # torch's errors of the network and Megatron's of the layout are of these two kinds.
        cause = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the processes could not join each other: {cause}; check RANK, WORLD_SIZE, MASTER_ADDR and "
            "MASTER_PORT (torchrun sets them), and that no other program holds the port"
        ) from error


def build_actor(config: TrainConfig, folder: Path, layout: Layout) -> MegatronActor:
    optim = config.optim
    return MegatronActor(
        folder,
        layout,
        ActorOptions(
            dtype=config.model.dtype,
            implementation=config.model.implementation,
            recompute=config.model.recompute,
            router=config.model.router,
            microbatch_tokens=config.parallel.microbatch_tokens,
            kept_graphs_gib=config.parallel.kept_graphs_gib,
            precision=config.precision,
            distributed_optimizer=config.parallel.shares_optimizer(layout.world_size),
            share_prompts=config.parallel.shares_prompts(
                implementation=config.model.implementation, device=layout.device.type
            ),
        ),
        AdamOptions(
            lr=optim.lr,
            weight_decay=optim.weight_decay,
            beta1=optim.beta1,
            beta2=optim.beta2,
            eps=optim.eps,
            clip_grad=optim.clip_grad,
            warmup_steps=optim.warmup_steps,
        ),
    )


def load_prompts(config: TrainConfig, folder: Path) -> tuple[Task, PromptSource]:
    """The task and its prompts, read whole: a mistake in the data is found before a model is built."""
    context = context_length(folder)
    longest = longest_answer(config.method, config.rollout.max_new_tokens, context=context)
    task = load_task(config.data, folder, max_prompt_tokens=context - longest)
    check_fit(config, task, longest=longest)
    return task, task.stream(per_step=config.rollout.prompts_per_step, seed=config.data.seed)


def of_one_day(
    config: TrainConfig, folder: Path, layout: Layout, loaded: tuple[Task, PromptSource]
) -> tuple[Task, PromptSource]:
    """``loaded``, or the same with rank 0's date when midnight passed between two processes."""
    date = layout.from_rank_0(loaded[0].date)
    if date == loaded[0].date:
        return loaded
    assert isinstance(config.data, JsonlOptions), f"a {config.data.name} prompt shows no date"
    config.data.date = date
    return load_prompts(config, folder)


def build_trainer(
    config: TrainConfig, folder: Path, run: Path, *, actor: MegatronActor, task: Task, stream: PromptSource
) -> Trainer:
    """The loop around ``actor``; engine and reward on the leader of each replica. ``run`` is a directory."""
    schedule, layout = config.method, actor.layout
    engine = build_engine(config.rollout, leader_of(config, folder, run, actor)) if layout.is_leader else None
    if schedule.needs_reference:
        actor.keep_reference()
    curriculum = config.data.curriculum
    draw = PromptDraw(curriculum, task.train, seed=config.data.seed) if curriculum.by else None
    state = MethodState(schedule, (prompt.id for prompt in task.train), draw=draw)
    generation = Generation(
        engine=engine,
        stream=stream,
        course=Course(schedule=schedule, state=state, num_steps=config.steps, layout=layout),
        sampling=sampling_params(config, task),
        group_size=config.rollout.group_size,
        seed=config.seed,
    )
    return Trainer(
        actor=actor,
        collector=Collector(
            generation=generation,
            source=source_of(generation, staleness=config.rollout.staleness, timeout_s=config.run.timeout_s),
            reward=make_reward(task.grader, **task.grader_options) if layout.is_leader else None,
            task=task,
        ),
        num_minibatches=config.optim.minibatches,
        seed=config.seed,
        mismatch_limit=config.rollout.mismatch_limit,
        agreement=build_agreement(config, actor, engine, task),
        canary_every=config.run.canary_every,
        drift_every=config.precision.probe_every if isinstance(config.precision, Quantised) else 0,
        staleness=config.rollout.staleness,
    )


def leader_of(config: TrainConfig, folder: Path, run: Path, actor: MegatronActor) -> Leader:
    return Leader(
        model=folder,
        run=run,
        number=actor.layout.dp_rank,
        vocab_size=actor.architecture.vocab_size,
        context_length=actor.architecture.max_positions,
        dtype=config.model.dtype,
        device=actor.layout.device,
        place=int(os.environ.get("LOCAL_RANK", "0")) // config.parallel.sizes.model_parallel,
    )


def build_agreement(
    config: TrainConfig, actor: MegatronActor, engine: RolloutEngine | None, task: Task
) -> Agreement | None:
    """With servers that are checked: the first prompt, as they and the actor see it."""
    rollout = config.rollout
    if not isinstance(rollout, SGLangOptions) or not rollout.sync.check_every:
        return None
    from megaent.rollout.sglang.engine import SGLangEngine

    is_exact = {rollout.dtype or config.model.dtype, config.model.dtype} == {"float32"}
    is_to_ask = rollout.starts_servers or actor.layout.dp_rank == 0  # one leader asks shared servers
    return Agreement(
        actor=actor,
        scorer=engine if isinstance(engine, SGLangEngine) and is_to_ask else None,
        tokens=next(prompt.tokens for prompt in task.train if len(prompt.tokens) > 1),
        limit=rollout.sync.log_prob_limit or (1e-4 if is_exact else 0.5),
        every=rollout.sync.check_every,
    )


def sampling_params(config: TrainConfig, task: Task) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        stop_token_ids=task.stop_token_ids,
    )


def run_path(config: TrainConfig, layout: Layout) -> Path:
    """``run.dir``, or runs/<name>-<time>; rank 0's choice on every rank."""
    chosen = config.run.dir or f"runs/{config.run.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path(layout.from_rank_0(chosen))
