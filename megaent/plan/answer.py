"""A plan as JSON, and as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields

from megaent.plan.candidates import TIE, Candidate, Found, Refused
from megaent.plan.constants import EXPECTED, Constants
from megaent.plan.generation import token_bytes
from megaent.plan.machine import GIB
from megaent.plan.search import Search
from megaent.plan.start import overrides, why_not_started
from megaent.plan.step import StepSeconds

_WIDTH = 22


def as_json(search: Search, found: Found) -> dict[str, object]:
    """Everything the text shows, in seconds, bytes and shares; and every constant with its source."""
    best = found.candidates[0]
    refusal = why_not_started(search, best)
    return {
        "model": asdict(search.shape) | {"parameters": search.shape.parameters},
        "cluster": asdict(search.cluster),
        "cards": search.cards,
        "tried": found.tried,
        "margin": found.margin if len(found.candidates) > 1 else None,
        "tie_within": TIE,
        "candidates": [_candidate(search, one) for one in found.candidates[: search.question.top]],
        "do_not_fit": [_refused(one) for one in _telling(found.refused)],
        "overrides": [] if refusal else overrides(search, best),
        "not_startable": refusal,
        "expected_error": {name: {"median": m, "nine_in_ten": n} for name, (m, n) in EXPECTED.items()},
        "constants": _constants(search.machine.constants),
    }


def _constants(constants: Constants) -> dict[str, dict[str, object]]:
    return {
        item.name: {"value": getattr(constants, item.name)} | dict(item.metadata)
        for item in fields(constants)
    }


def _candidate(search: Search, one: Candidate) -> dict[str, object]:
    found: dict[str, object] = {
        "layout": asdict(one.layout),
        "microbatch_tokens": one.microbatch_tokens,
        "microbatches": one.work.microbatches,
        "fits": one.lacks == 0,
        "lacks_gib": one.lacks / GIB,
        "memory_bytes": asdict(one.memory)
        | {"total": one.memory.total, "allocated": one.memory.allocated, "states": one.memory.states},
        "step_seconds": one.seconds,
        "update_seconds": asdict(one.update) | {"total": one.update.total},
        "tokens_per_s_per_gpu": tokens_per_card(search, one),
        "mfu": utilisation(search, one),
        "gpu_hours_a_step": search.cards * one.seconds / 3600,
        "cost_a_step": search.cards * one.seconds / 3600 * search.cluster.price,
    }
    if one.step is not None and one.engines is not None:
        found["engines"] = {
            "count": one.engines.count, "tp": one.engines.tp, "cards": one.engines.cards,
            "colocated": one.colocated,
        }  # fmt: skip
        found["step"] = {
            "prefill": one.step.generate.prefill,
            "decode": one.step.generate.decode,
            "tail": one.step.generate.tail,
            "generation": one.step.generation,
            "score": one.step.trained.score,
            "reference": one.step.trained.reference,
            "update": one.step.trained.update.total,
            "publication": one.step.publication,
            "waits_for": one.step.waits_for,
        }
    return found


def _refused(one: Refused) -> dict[str, object]:
    return {
        "layout": asdict(one.layout),
        "microbatch_tokens": one.microbatch_tokens,
        "lacks_gib": one.lacks / GIB,
        "memory_bytes": asdict(one.memory),
    }


def tokens_of_step(search: Search) -> float:
    if search.batch is not None:
        return search.batch.tokens
    return search.question.global_batch * search.question.seq_len


def tokens_per_card(search: Search, one: Candidate) -> float:
    return tokens_of_step(search) / one.seconds / search.cards


def utilisation(search: Search, one: Candidate) -> float:
    """Of the training cards' dense peak in their precision during the update; attention's upper triangle and
    what is computed twice do not count."""
    shape = search.shape
    weights = shape.layers * shape.active_matrices + shape.hidden * shape.padded_vocab
    operations = 6 * weights + 6 * shape.layers * one.work.context * shape.query
    peak = search.cluster.fp8_tflops if one.work.fp8 else search.cluster.bf16_tflops
    seconds = one.update.total * one.layout.cards
    return operations * tokens_of_step(search) / seconds / (peak * 1e12)


def _telling(refused: list[Refused]) -> list[Refused]:
    """The nearest three that differ in how they divide the model."""
    seen: dict[tuple[int, int, int], Refused] = {}
    for one in refused:
        seen.setdefault((one.layout.tp, one.layout.pp, one.layout.cp), one)
    return list(seen.values())[:3]


# ---------------------------------------------------------------- text


def as_text(search: Search, found: Found) -> str:
    best = found.candidates[0]
    lines = [*_head(search, found), "", *_memory(search, best), "", *_seconds(search, best), ""]
    lines += [*_others(search, found), "", *_start(search, best), "", *_errors(search)]
    return "\n".join(lines) + "\n"


def _head(search: Search, found: Found) -> Iterator[str]:
    question, best = search.question, found.candidates[0]
    yield f"{search.shape.name}, {search.shape.parameters / 1e9:.2f} billion parameters"
    yield f"{search.cards} cards: {search.cluster.name}"
    if search.batch is not None:
        batch = search.batch
        yield (
            f"a step: {batch.prompts} prompts x {batch.group} responses, {batch.prompt_tokens:,.0f} + "
            f"{batch.lengths.mean:,.0f} tokens (longest {batch.lengths.longest:,}), "
            f"staleness {batch.staleness}, {question.method}"
        )
    else:
        sequences = f"{question.global_batch} sequences of {question.seq_len:,} tokens"
        yield f"a step: {sequences}, {question.precision}"
    yield ""
    yield f"best of {found.tried} layouts: {_named(best)}"


def _named(one: Candidate) -> str:
    text = f"{one.layout}, {one.microbatch_tokens:,} tokens a microbatch"
    if one.engines is None:
        return text
    where = "on the same cards" if one.colocated else f"on {one.engines.cards} cards of their own"
    return f"{text}; {one.engines.count} engines of {one.engines.tp} {where}"


def _memory(search: Search, best: Candidate) -> Iterator[str]:
    limit = search.cluster.memory_gib
    lacks = f"; DOES NOT FIT, lacks {best.lacks / GIB:.1f} GiB" if best.lacks else ""
    yield f"memory of the fullest rank: {best.memory.total / GIB:.1f} of {limit} GiB{lacks}"
    for item in fields(best.memory):
        value = getattr(best.memory, item.name)
        if value:
            yield _line(item.name, f"{value / GIB:8.2f} GiB")
    if best.colocated and best.engines is not None:
        weights = best.engines.weights(search.shape)
        cache = best.engines.memory - weights
        tokens = cache * best.engines.tp / token_bytes(search.shape)
        yield (
            f"while it generates: states {best.memory.states / GIB:.1f}, engine weights {weights / GIB:.1f}, "
            f"cache {cache / GIB:.1f} GiB for {tokens:,.0f} tokens an engine"
        )


def _seconds(search: Search, best: Candidate) -> Iterator[str]:
    yield f"time of a step: {best.seconds:.4g} s"
    if best.step is not None:
        yield from _around_the_update(best.step)
        yield _line("update", f"{best.update.total:8.2f} s, of it")
    for item in fields(best.update):
        value = getattr(best.update, item.name)
        if value > 5e-4 * best.update.total:
            share = value / best.update.total
            yield _line("  " + item.name.replace("_", " "), f"{value:8.2f} s  {share:6.1%}")
    yield (
        f"{tokens_per_card(search, best):,.0f} tokens/s a card; the update uses "
        f"{utilisation(search, best):.1%} of the training cards' peak"
    )
    hours = search.cards * best.seconds / 3600 * search.question.steps
    price = search.cluster.price
    cost = f", {hours * price:,.0f} at {price:g} an hour" if price else ""
    yield f"{search.question.steps} steps: {hours:,.1f} card-hours{cost}"


def _around_the_update(step: StepSeconds) -> Iterator[str]:
    parts = {
        "generate: prefill": step.generate.prefill,
        "generate: decode": step.generate.decode,
        "generate: tail": step.generate.tail,
        "score": step.trained.score,
        "reference": step.trained.reference,
    }
    for name, value in parts.items():
        if value:
            yield _line(name, f"{value:8.2f} s")
    if step.staleness:
        both = f"{step.generation:8.2f} s of generation, {step.trained.total:.2f} s of training"
        yield _line("side by side", both)
        yield _line("a step waits for", step.waits_for)
    yield _line("publication", f"{step.publication:8.2f} s")


def _others(search: Search, found: Found) -> Iterator[str]:
    best = found.candidates[0]
    if len(found.candidates) == 1:
        yield "nothing else was tried" if found.tried == 1 else "nothing else fits"
    else:
        tie = f" (a tie: within {TIE:.1%})" if found.margin <= TIE else ""
        yield f"the runner-up takes {found.margin:+.1%}{tie}"
    for one in found.candidates[1 : search.question.top]:
        yield f"  {one.seconds / best.seconds - 1:+7.1%}  {one.memory.total / GIB:5.1f} GiB  {_named(one)}"
    for one in _telling(found.refused):
        largest = max(fields(one.memory), key=lambda item: getattr(one.memory, item.name)).name
        yield (
            f"  lacks {one.lacks / GIB:5.1f} GiB  {one.layout}, {one.microbatch_tokens:,} tokens: "
            f"mostly {largest}, {getattr(one.memory, largest) / GIB:.1f} GiB"
        )


def _start(search: Search, best: Candidate) -> Iterator[str]:
    refusal = why_not_started(search, best)
    if refusal:
        yield f"not started by megaent train: {refusal}"
        return
    yield f"to start it, on {best.layout.cards} cards, with data.path=…:"
    for word in overrides(search, best):
        yield f"  {word if len(word) < 100 else word[:60] + '…]'}"


def _errors(search: Search) -> Iterator[str]:
    kinds = (
        ["memory", "rl"]
        if search.question.is_rl
        else ["memory", "experts" if search.shape.experts else "dense"]
    )
    names = {"memory": "memory", "rl": "a step's time", "experts": "time with experts", "dense": "time"}
    shown = [f"{names[kind]} {EXPECTED[kind][0]:.0%} ({EXPECTED[kind][1]:.0%})" for kind in kinds]
    yield f"expected error, median (nine in ten within): {', '.join(shown)}; docs/plan.md says of what"


def _line(name: str, value: str) -> str:
    return f"  {name:{_WIDTH}}{value}"
