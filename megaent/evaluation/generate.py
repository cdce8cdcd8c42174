"""Prompts answered batch by batch; each batch is on the disk before the next is asked."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

from megaent.data.task import Decode, decode_groups
from megaent.errors import DataError
from megaent.evaluation.response_file import ResponseFile
from megaent.randomness import draw_seed
from megaent.rollout.engine import RolloutEngine
from megaent.types import Prompt, RolloutRequest, SamplingParams

_TELL_EVERY_S = 10.0


def longest_first(prompts: Sequence[Prompt]) -> list[Prompt]:
    """What memory cannot hold shows at once, and prompts of one length need little padding."""
    return sorted(prompts, key=lambda prompt: (-len(prompt.tokens), prompt.id))


def generate(
    engine: RolloutEngine,
    prompts: Sequence[Prompt],
    file: ResponseFile,
    *,
    samples: int,
    seed: int,
    sampling: SamplingParams,
    at_once: int,
    decode: Decode,
    say: Callable[[str], object],
) -> None:
    """Fill ``file`` up with ``samples`` responses a prompt, in the order given, ``at_once`` prompts a batch.

    A batch is always the same prompts and seeds, whatever was done before, so an evaluation that was killed
    ends with the bits of one that was not, where the engine gives equal bits to equal calls.
    """
    with file.held(at_once=at_once) as handle:
        done = [group.prompt.id for group in file.read()]
        if done != [prompt.id for prompt in prompts[: len(done)]]:
            raise DataError(f"{file.path} holds other prompts than these; give another folder as out=")
        if done:
            say(f"{len(done)} of {len(prompts)} prompts are answered already, in {file.path}")
        started = told = time.monotonic()
        for first in range(len(done), len(prompts), at_once):
            batch = prompts[first : first + at_once]
            requests = [_request(first + i, prompt, samples, seed) for i, prompt in enumerate(batch)]
            groups = decode_groups(engine.generate(requests, sampling), decode)
            file.append(handle, groups, [request.seeds for request in requests])
            now, answered = time.monotonic(), first + len(batch)
            if now - told > _TELL_EVERY_S:
                told = now
                left = (now - started) / (answered - len(done)) * (len(prompts) - answered)
                say(f"{answered} of {len(prompts)} prompts, about {left:.0f} s left")


def _request(index: int, prompt: Prompt, samples: int, seed: int) -> RolloutRequest:
    seeds = tuple(draw_seed(seed, "evaluate", prompt.id, number) for number in range(samples))
    return RolloutRequest(index=index, prompt=prompt, seeds=seeds)


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Of what the model reads and what is right, in any order."""
    whole = hashlib.sha256()
    for prompt in sorted(prompts, key=lambda prompt: prompt.id):
        whole.update(repr((prompt.id, prompt.tokens, prompt.answer)).encode())
    return whole.hexdigest()[:16]
