"""Generation ahead of training: the next steps' responses are drawn while this one is learnt from.

With a depth of 1 (one step off) step t + 1 is drawn while step t is scored and learnt from, so by weights one
version older than in a synchronous run; with a depth of k, by weights up to k versions older. What was drawn
and not yet learnt from is part of a checkpoint, so a resumed run draws nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as WaitedTooLong
from dataclasses import asdict
from pathlib import Path

import torch

from megaent.durable import replace_file
from megaent.errors import CheckpointError, EngineError
from megaent.loop.collect import OnDemand, Source
from megaent.loop.generation import Generation
from megaent.types import Group, Prompt, Response


def source_of(generation: Generation, *, staleness: int, timeout_s: float) -> Source:
    """Where a leader's responses come from; its peers have no engine and get none."""
    engine, layout = generation.engine, generation.layout
    if engine is None or not staleness:
        return OnDemand(generation)
    return Ahead(
        generation.first,
        depth=staleness,
        last_step=generation.course.num_steps,
        timeout_s=timeout_s,
        draws_on=engine.takes_weights_while_generating,
        leader=layout.dp_rank,
        leaders=layout.dp,
    )


_Drawn = tuple[list[Group], float]  # this leader's groups of a step, and the seconds that drawing them took


class Ahead:
    """A ``Source``: one leader's coming groups. ``depth`` in steps; ``timeout_s`` bounds every wait.

    ``draws_on`` is whether the engine takes new weights in the middle of a response; one that does not first
    ends those that it has. ``leader`` is this one's number among ``leaders``.
    """

    def __init__(
        self,
        generate: Callable[[int], list[Group]],
        *,
        depth: int,
        last_step: int,
        timeout_s: float,
        draws_on: bool = False,
        leader: int = 0,
        leaders: int = 1,
    ) -> None:
        self._generate, self._depth, self._last_step = generate, depth, last_step
        self._timeout_s, self._draws_on = timeout_s, draws_on
        self._leader, self._leaders = leader, leaders
        threads = torch.get_num_threads()  # a new thread starts with torch's own choice
        self._pool = ThreadPoolExecutor(
            depth, thread_name_prefix="generate", initializer=torch.set_num_threads, initargs=(threads,)
        )
        self._coming: dict[int, Future[_Drawn]] = {}
        self.hidden_s = 0.0  # of generation, while the trainer did something else; since the last ``take``

    def take(self, step: int, attempt: int = 0) -> list[Group]:
        """The groups of ``step``, drawn now if they were not under way; starts on the steps after it.

        Raises what the engine raised, and EngineError when they do not come within the limit.
        """
        assert attempt == 0, "what asks again after the first answers cannot be drawn ahead"
        started = time.perf_counter()
        groups, drawing_s = self._result(step, self._coming.pop(step, None) or self._start(step))
        self.hidden_s = max(0.0, drawing_s - (time.perf_counter() - started))
        for later in range(step + 1, min(step + self._depth, self._last_step) + 1):
            if later not in self._coming:
                self._coming[later] = self._start(later)
        return groups

    def rest(self) -> None:
        """The engine draws the next steps meanwhile."""

    def settle(self) -> None:
        if not self._draws_on:
            self._untaken()

    def save(self, folder: Path) -> None:
        """What was drawn and not taken, one file a leader; waits for what is being drawn."""
        write_drawn(folder / f"rollouts-{self._leader}.json", self._untaken())

    def load(self, folder: Path) -> None:
        """This leader's share of what all leaders saved, their number may have been another.

        Raises CheckpointError for a file that ``save`` did not write.
        """
        for file in sorted(folder.glob("rollouts-*.json")):
            for step, groups in read_drawn(file).items():
                known = self._coming[step].result()[0] if step in self._coming else []
                mine = [group for group in groups if group.index % self._leaders == self._leader]
                self._coming[step] = Future()
                self._coming[step].set_result((known + mine, 0.0))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _untaken(self) -> dict[int, list[Group]]:
        return {step: self._result(step, future)[0] for step, future in self._coming.items()}

    def _start(self, step: int) -> Future[_Drawn]:
        return self._pool.submit(self._draw, step)

    def _draw(self, step: int) -> _Drawn:
        started = time.perf_counter()
        groups = self._generate(step)
        return groups, time.perf_counter() - started

    def _result(self, step: int, future: Future[_Drawn]) -> _Drawn:
        try:
            return future.result(timeout=self._timeout_s)
        except WaitedTooLong:
            raise EngineError(
                f"the responses of step {step} did not come within run.timeout_s={self._timeout_s:g} "
                "seconds; look at the engine's log, or raise the limit"
            ) from None


# ---------------------------------------------------------------- in a checkpoint


def write_drawn(path: Path, drawn: Mapping[int, list[Group]]) -> None:
    """One leader's untaken groups as JSON; floats keep every bit."""
    steps = {str(step): [asdict(group) for group in groups] for step, groups in drawn.items()}
    replace_file(path, json.dumps(steps))


def read_drawn(path: Path) -> dict[int, list[Group]]:
    """Raises CheckpointError for a file that ``write_drawn`` did not write."""
    try:
        steps = json.loads(path.read_text())
        return {int(step): [_group(fields) for fields in groups] for step, groups in steps.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} does not hold rollouts: {error}") from error


def _group(fields: dict) -> Group:
    return Group(
        index=int(fields["index"]),
        prompt=_prompt(fields["prompt"]),
        responses=tuple(_response(response) for response in fields["responses"]),
    )


def _prompt(fields: dict) -> Prompt:
    """A checkpoint of before prompts had labels holds none."""
    labels = tuple((name, value) for name, value in fields.get("labels", ()))
    return Prompt(**fields | {"tokens": tuple(fields["tokens"]), "labels": labels})


def _response(fields: dict) -> Response:
    for name in ("tokens", "log_prob"):
        fields[name] = tuple(fields[name])
    for name in ("top_tokens", "top_log_prob"):
        fields[name] = tuple(map(tuple, fields[name]))
    return Response(**fields)
