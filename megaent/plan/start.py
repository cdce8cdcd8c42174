"""The ``megaent train`` words that start what was planned."""

from __future__ import annotations

from megaent.plan.candidates import Candidate
from megaent.plan.machine import whole
from megaent.plan.search import Search

FAMILIES = "dense Qwen2, Qwen3 and Llama models"


def why_not_started(search: Search, best: Candidate) -> str:
    """Why ``megaent train`` cannot start this plan; empty where it can."""
    if not search.question.is_rl:
        return "a plan of training alone has no step for megaent train to start"
    if search.shape.experts:
        return (
            f"{search.shape.name} has experts, which megaent trains without Transformer Engine and SGLang "
            "only, on a CPU so far"
        )
    if best.layout.sharding == "full":
        return "megaent shards no weights and no gradients over replicas; leave sharding=full out"
    for name in ("lora", "stack", "head", "attention"):
        if getattr(search.question, name):
            return f"megaent train has no {name}; leave {name}={getattr(search.question, name)} out"
    if search.question.states != "fp32":
        return "megaent keeps Adam's state in fp32; leave states out"
    if not search.shape.gated or search.shape.biased:
        return f"megaent trains {FAMILIES}; {search.shape.name} is none of them"
    return ""


def overrides(search: Search, best: Candidate) -> list[str]:
    """For ``torchrun … -m megaent train``, on the training cards. Engines apart are given as rollout.urls."""
    question, layout, engines = search.question, best.layout, best.engines
    assert engines is not None, "only a step of reinforcement learning is started"
    words = [
        f"model.path={search.shape.name if '/' in search.shape.name else 'models/' + search.shape.name}",
        "model.dtype=bfloat16",
        "model.implementation=transformer_engine",
        f"model.recompute.granularity={layout.recompute}",
        f"parallel.tensor_model_parallel_size={layout.tp}",
        f"parallel.pipeline_model_parallel_size={layout.pp}",
        f"parallel.context_parallel_size={layout.cp}",
        f"parallel.sequence_parallel={'true' if layout.sequence_parallel else 'false'}",
        f"parallel.distributed_optimizer={'true' if layout.sharding == 'optimizer' else 'false'}",
        f"parallel.microbatch_tokens={best.microbatch_tokens}",
        "parallel.kept_graphs_gib=0",  # not in the plan's memory
        f"optim.minibatches={question.minibatches}",
        f"method={question.method}",
        "rollout=sglang",
        f"rollout.prompts_per_step={question.prompts}",
        f"rollout.group_size={question.group_size}",
        f"rollout.max_new_tokens={question.max_new_tokens}",
        f"rollout.staleness={question.staleness}",
        f"rollout.concurrency={whole(question.prompts * question.group_size / layout.dp)}",
    ]
    if layout.vpp > 1:
        words.append(f"parallel.virtual_pipeline_model_parallel_size={layout.vpp}")
    return words + (_shared(search, best) if best.colocated else _apart(best))


def _shared(search: Search, best: Candidate) -> list[str]:
    assert best.engines is not None
    assert search.batch is not None
    together = search.batch.prompts * search.batch.group / best.engines.count
    room = best.engines.cached_tokens(search.shape) / (search.batch.prompt_tokens + search.batch.lengths.mean)
    words = ["rollout.colocated=true", "rollout.sync.transport=ipc"]
    words.append(f"rollout.max_running_requests={max(1, int(min(whole(together), room)))}")
    words.append(f"rollout.servers={best.layout.tp * best.layout.cp // best.engines.tp}")
    return words + ([f"+rollout.server_args.tp_size={best.engines.tp}"] if best.engines.tp > 1 else [])


def _apart(best: Candidate) -> list[str]:
    assert best.engines is not None
    urls = ",".join(f"http://engine-{number}:30000" for number in range(1, best.engines.count + 1))
    return [f"rollout.urls=[{urls}]"]
