"""One size and one type: everybody is checked, then everybody's passes are timed side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megaent.bench.contender import Contender
from megaent.bench.correctness import (
    WRONG,
    Errors,
    Truth,
    errors_of,
    errors_of_torch,
    refuse_wrong,
    run_once,
)
from megaent.bench.measure import Call, Seconds, measure, peak_extra_bytes
from megaent.bench.problems import Problem

PASSES = ("forward", "forward and backward")

Row = dict[str, Any]


class Case:
    """The contenders of one problem that are fit to be timed, and why the others are not."""

    def __init__(self, problem: Problem, contenders: Sequence[Contender], device: str) -> None:
        self.problem, self.contenders, self.device = problem, contenders, device
        self.errors: dict[str, Errors] = {}
        self.notes = {contender.name: contender.note for contender in contenders}
        self._scratch: Tensor | None = None

    def check(self) -> None:
        """Raises NumericsError for one of ours that is wrong; others get a note and no time."""
        truth = Truth(self.problem)
        of_torch = errors_of_torch(truth)
        for contender in self.contenders:
            if contender.compute is None:
                continue
            try:
                self._prepare(contender)()
                found = errors_of(contender, self.problem, self._inputs(contender), truth)
            except torch.OutOfMemoryError:
                self.notes[contender.name] = "out of memory"
                continue
            except Exception as error:
                if contender.is_ours:
                    raise
                # One that does not run here must not cost the measurement of the others.
                self.notes[contender.name] = f"failed: {type(error).__name__}: {error}".splitlines()[0]
                continue
            if contender.is_ours:
                refuse_wrong(contender, found, of_torch)
            self.errors[contender.name] = found
            if not found["log_prob"] <= WRONG:
                off = f"{found['log_prob']:.2g}"
                self.notes[contender.name] = f"not timed: log_prob is off by {off} of itself"

    def run(self, what: str, num_rounds: int) -> dict[str, Any]:
        """Seconds, memory and share of the roofline of one pass, after ``check``."""
        trains = what == PASSES[1]
        entrants = [c for c in self.contenders if trains or not c.trains_only]
        name, run, work = self._roofline()
        run()
        rows = {contender.name: self._row(contender) for contender in entrants}
        calls: dict[str, Call] = {}
        for contender in entrants:
            if self._is_fit(contender):
                call = Call(self._pass(contender, trains), self._prepare(contender))
                self._measure_memory(call, contender.name, rows, calls)
        seconds = measure({name: Call(run)} | calls, num_rounds, self.device)
        rate = work / statistics.median(seconds[name].wall)
        for contender in entrants:
            if contender.name in calls:
                times = _times(seconds[contender.name])
                share = self._work(contender, trains) / times["median_wall_s"] / rate
                rows[contender.name] |= times | {"share_of_roofline": share}
        roofline = {"what": name, "per_s": rate} | _times(seconds[name])
        return {"pass": what, "roofline": roofline, "contenders": list(rows.values())}

    def _row(self, contender: Contender) -> Row:
        return {
            "name": contender.name,
            "is_ours": contender.is_ours,
            "has_entropy": contender.has_entropy,
            "note": self.notes[contender.name],
            "errors": self.errors.get(contender.name),
        }

    def _is_fit(self, contender: Contender) -> bool:
        return self.errors.get(contender.name, {"log_prob": WRONG + 1})["log_prob"] <= WRONG

    def _measure_memory(self, call: Call, name: str, rows: dict[str, Row], calls: dict[str, Call]) -> None:
        if call.prepare is not None:
            call.prepare()
        try:
            rows[name]["peak_extra_bytes"] = peak_extra_bytes(call.run, self.device)
        except torch.OutOfMemoryError:
            rows[name]["note"] = "out of memory"
            return
        calls[name] = call

    # ------------------------------------------------------------ what is called

    def _inputs(self, contender: Contender) -> tuple[Tensor, ...]:
        """Those who use up their first input get a copy of it, one for all of them."""
        if not contender.overwrites:
            return self.problem.inputs
        if self._scratch is None:
            self._scratch = torch.empty_like(self.problem.inputs[0])
        return (self._scratch, *self.problem.inputs[1:])

    def _prepare(self, contender: Contender) -> Callable[[], object]:
        copy, source = self._inputs(contender)[0], self.problem.inputs[0]
        return (lambda: copy.copy_(source)) if contender.overwrites else (lambda: None)

    def _pass(self, contender: Contender, trains: bool) -> Callable[[], object]:
        inputs, problem, compute = self._inputs(contender), self.problem, contender.compute
        assert compute is not None
        if trains:
            return lambda: run_once(contender, inputs, problem.given, problem.cotangents)
        return lambda: torch.no_grad()(compute)(*inputs, *problem.given)

    # ------------------------------------------------------------ what it must cost

    def _roofline(self) -> tuple[str, Callable[[], object], float]:
        """A copy of all logits, bytes read and written; or the matrix product that makes them, FLOP."""
        if self.problem.path.from_hidden:
            hidden_ND, weight_VD = self.problem.inputs
            return "matrix product, FLOP", lambda: F.linear(hidden_ND, weight_VD), self.problem.flops
        logits, sink_NV = self.problem.logits, torch.empty_like(self.problem.logits[0])
        return "copy, B", lambda: [sink_NV.copy_(logits_NV) for logits_NV in logits], 2 * self._bytes()

    def _work(self, contender: Contender, trains: bool) -> float:
        """All logits once and, to train, once more with the gradient; or the matrix products, FLOP."""
        if self.problem.path.from_hidden:
            return self.problem.flops * (contender.num_products if trains else 1)
        return 2 * self._bytes() + self.problem.inputs[0].nbytes if trains else self._bytes()

    def _bytes(self) -> float:
        return float(sum(logits_NV.nbytes for logits_NV in self.problem.logits))


def _times(seconds: Seconds) -> Row:
    times: Row = {"wall_s": seconds.wall, "median_wall_s": statistics.median(seconds.wall)}
    if seconds.cpu:
        times |= {"cpu_s": seconds.cpu, "median_cpu_s": statistics.median(seconds.cpu)}
    return times
