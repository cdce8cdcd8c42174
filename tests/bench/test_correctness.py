"""Nothing is timed before it is right, and rightness is measured against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from support.truth import gradients, textbook
from torch import Tensor

from megaent.bench.case import PASSES, Case
from megaent.bench.contender import Contender
from megaent.bench.correctness import Truth, errors_of
from megaent.bench.ours import contenders, eager, eager_linear
from megaent.bench.problems import Problem, make_problem
from megaent.bench.shapes import Shape
from megaent.errors import NumericsError
from megaent.ops import linear_logprob_entropy, logprob_entropy

SMALL = Shape("small", 24, 500)


def small(path: str, dtype: str = "fp32", num_rows: int = 20) -> Problem:
    return make_problem(path, SMALL, num_rows, dtype, "cpu")


@pytest.mark.parametrize("with_entropy", [True, False])
def test_the_truth_is_the_textbooks(with_entropy: bool) -> None:
    """Of all rows where they are few, from hidden states too; the weight's gradient block by block."""
    problem = small("linear", num_rows=8)
    truth = Truth(problem)
    hidden, weight = (x.double() for x in problem.inputs)
    cotangents = problem.cotangents.double() * torch.tensor([[1.0], [float(with_entropy)]])
    values, grads = gradients(
        lambda h, w: textbook(h @ w.T, problem.target), hidden, weight, cotangents=list(cotangents)
    )
    torch.testing.assert_close(truth.values["log_prob"], values[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(truth.values["entropy"], values[1], rtol=1e-9, atol=1e-12)
    errors = truth.errors(values, grads, with_entropy=with_entropy)
    assert set(errors) == {"log_prob", "entropy", "gradient", "gradient of weight"}
    assert all(error < 1e-9 for error in errors.values())
    doubled = truth.errors(values, [2 * g for g in grads], with_entropy=with_entropy)
    assert (doubled["gradient"], doubled["gradient of weight"]) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("path", ["logits", "linear"])
def test_only_checked_rows_count_in_the_gradient(path: str) -> None:
    """The others' cotangents are 0, so the weight's gradient is known from the checked rows."""
    problem = small(path, num_rows=200)
    truth = Truth(problem)
    assert truth.rows_K.tolist()[0] == 0
    assert truth.rows_K.tolist()[-1] == 199
    contender = Contender("torch eager", eager if path == "logits" else eager_linear)
    assert max(errors_of(contender, problem, problem.inputs, truth).values()) < 1e-5


def off(path: str, change: Callable[[Tensor], Tensor]) -> Callable[..., Sequence[Tensor]]:
    compute = logprob_entropy if path == "logits" else linear_logprob_entropy
    return lambda *given: (compute(*given).log_prob, change(compute(*given).entropy))


@pytest.mark.parametrize("path", ["logits", "linear"])
@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda entropy: entropy + 1e-3, "entropy"),
        (lambda entropy: entropy + 1e-3 * (entropy - entropy.detach()), "gradient"),
        (lambda entropy: entropy * torch.nan, "entropy"),
    ],
)
def test_one_of_ours_that_is_wrong_ends_it(path: str, change: Callable[[Tensor], Tensor], what: str) -> None:
    case = Case(
        small(path),
        [
            Contender("torch eager", eager if path == "logits" else eager_linear),
            Contender("megaent cpu", off(path, change), is_ours=True),
        ],
        "cpu",
    )
    with pytest.raises(NumericsError, match=rf"megaent cpu: the relative error of {what}.* nothing is timed"):
        case.check()


def test_a_peer_that_is_wrong_is_shown_and_not_timed() -> None:
    negated = Contender("peer", lambda z, y: (-eager(z, y)[0],), has_entropy=False)
    absent = Contender("absent", None, note="not installed: pip install 'absent'")
    broken = Contender("broken", lambda z: z)
    case = Case(small("logits"), [Contender("torch eager", eager), negated, absent, broken], "cpu")
    case.check()
    rows = {row["name"]: row for row in case.run(PASSES[0], 1)["contenders"]}
    assert "median_wall_s" in rows["torch eager"]
    assert rows["peer"]["note"].startswith("not timed: log_prob is off by")
    assert rows["absent"]["note"] == "not installed: pip install 'absent'"
    assert rows["broken"]["note"].startswith("failed: TypeError: ")
    assert not any("median_wall_s" in rows[name] for name in ("peer", "absent", "broken"))


@pytest.mark.parametrize("path", ["logits", "linear"])
def test_every_contender_of_a_cpu_is_right_and_timed(path: str) -> None:
    """torch.compile's come last in test_command.py: compiling takes its time."""
    entrants = [c for c in contenders(path, "cpu", torch.float32, None) if c.name != "torch.compile"]
    problem = small(path)
    before = [x.clone() for x in problem.inputs]
    case = Case(problem, entrants, "cpu")
    case.check()
    for what in PASSES:
        found = case.run(what, 2)
        timed = {row["name"] for row in found["contenders"] if "median_wall_s" in row}
        expected = {c.name for c in entrants if c.compute and (what == PASSES[1] or not c.trains_only)}
        assert timed == expected
        assert all(len(row["wall_s"]) == 2 for row in found["contenders"] if row["name"] in timed)
    # Those who write over their input got a copy.
    assert all(map(torch.equal, problem.inputs, before))
