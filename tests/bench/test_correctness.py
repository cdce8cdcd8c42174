"""Nothing is timed before it is right, and rightness is measured against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from support.kl_cases import differentiated
from support.truth import textbook, textbook_kl
from torch import Tensor

from megaent.bench.case import PASSES, Case
from megaent.bench.contender import Contender
from megaent.bench.correctness import Truth, errors_of
from megaent.bench.ours import contenders, our_backends
from megaent.bench.paths import PATHS
from megaent.bench.problems import Problem, make_problem
from megaent.bench.shapes import Shape
from megaent.bench.usual import USUAL
from megaent.errors import NumericsError
from megaent.ops import linear_logprob_entropy, logprob_entropy

SMALL = Shape("small", 24, 500)
every_path = pytest.mark.parametrize("path", list(PATHS))


def small(path: str, dtype: str = "fp32", num_rows: int = 20) -> Problem:
    return make_problem(PATHS[path], SMALL, num_rows, dtype, "cpu")


def by_the_book(problem: Problem, logits: Tensor) -> dict[str, Tensor]:
    """Every statistic by its definition, the last two by a sort."""
    target = problem.target
    found = dict(textbook(logits, target)._asdict())
    for reference in problem.given[1:]:
        found["kl"] = textbook_kl(logits, reference.double())
    probability = logits.detach().softmax(1)
    found["top8_mass"] = probability.sort(1, descending=True).values[:, :8].sum(1)
    falling = logits.detach().sort(1, descending=True).values.tolist()
    of_target = logits.detach().gather(1, target[:, None])[:, 0].tolist()
    found["target_rank"] = torch.tensor([row.index(z) for row, z in zip(falling, of_target, strict=True)])
    return {name: found[name] for name in problem.path.outputs}


@every_path
@pytest.mark.parametrize("with_entropy", [True, False])
def test_the_truth_is_the_textbooks(path: str, with_entropy: bool) -> None:
    """Of all rows where they are few, from hidden states too; the weight's gradient block by block."""
    problem = small(path, num_rows=8)
    truth = Truth(problem)
    inputs = [x.double() for x in problem.inputs]
    logits = inputs[0] @ inputs[1].T if problem.path.from_hidden else inputs[0]
    values = by_the_book(problem, logits)
    assert truth.values.keys() == values.keys()
    for name, value in values.items():
        torch.testing.assert_close(truth.values[name].to(value.dtype), value, rtol=1e-9, atol=1e-12, msg=name)
    num_trained = problem.path.num_trained if with_entropy else 1

    def trained(*leaves: Tensor) -> list[Tensor]:
        made = leaves[0] @ leaves[1].T if problem.path.from_hidden else leaves[0]
        return list(by_the_book(problem, made).values())[:num_trained]

    weights = problem.cotangents[:num_trained].double()
    _, grads = differentiated(trained, *inputs, weights=weights)
    errors = truth.errors(list(values.values()), grads, with_entropy=with_entropy)
    of_weight = {"gradient of weight"} if problem.path.from_hidden else set()
    assert set(errors) == {*values, "gradient"} | of_weight
    assert all(error < 1e-9 for error in errors.values())
    doubled = truth.errors(list(values.values()), [2 * g for g in grads], with_entropy=with_entropy)
    assert [doubled[name] for name in ("gradient", *of_weight)] == pytest.approx([1.0] * (1 + len(of_weight)))


@every_path
def test_only_checked_rows_count_in_the_gradient(path: str) -> None:
    """The others' cotangents are 0, so the weight's gradient is known from the checked rows."""
    problem = small(path, num_rows=200)
    truth = Truth(problem)
    assert truth.rows_K.tolist()[0] == 0
    assert truth.rows_K.tolist()[-1] == 199
    contender = Contender("torch eager", USUAL[path])
    assert max(errors_of(contender, problem, problem.inputs, truth).values()) < 1e-5


def test_policies_that_are_compared_are_near_and_not_the_same() -> None:
    kl = Truth(small("kl", num_rows=200)).values["kl"]
    assert 1e-4 < float(kl.mean()) < 0.2
    assert float(kl.min()) >= 0


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
            Contender("torch eager", USUAL[path]),
            Contender("megaent cpu", off(path, change), is_ours=True),
        ],
        "cpu",
    )
    with pytest.raises(NumericsError, match=rf"megaent cpu: the relative error of {what}.* nothing is timed"):
        case.check()


def test_a_peer_that_is_wrong_is_shown_and_not_timed() -> None:
    negated = Contender("peer", lambda z, y: (-USUAL["logits"](z, y)[0],), has_entropy=False)
    absent = Contender("absent", None, note="not installed: pip install 'absent'")
    broken = Contender("broken", lambda z: z)
    case = Case(small("logits"), [Contender("torch eager", USUAL["logits"]), negated, absent, broken], "cpu")
    case.check()
    rows = {row["name"]: row for row in case.run(PASSES[0], 1)["contenders"]}
    assert "median_wall_s" in rows["torch eager"]
    assert rows["peer"]["note"].startswith("not timed: log_prob is off by")
    assert rows["absent"]["note"] == "not installed: pip install 'absent'"
    assert rows["broken"]["note"].startswith("failed: TypeError: ")
    assert not any("median_wall_s" in rows[name] for name in ("peer", "absent", "broken"))


@pytest.mark.parametrize(("path", "output"), [(p, o) for p in ("kl", "extras") for o in PATHS[p].outputs])
def test_no_output_of_ours_may_be_wrong(path: str, output: str) -> None:
    (backend,) = our_backends(PATHS[path], "cpu", torch.float32)
    right = next(
        c for c in contenders(PATHS[path], "cpu", torch.float32, None) if c.name == f"megaent {backend}"
    )

    def wrong(*given: Tensor) -> list[Tensor]:
        assert right.compute is not None
        found = zip(PATHS[path].outputs, right.compute(*given), strict=True)
        return [value + 1 if name == output else value for name, value in found]

    case = Case(small(path), [Contender("megaent", wrong, is_ours=True)], "cpu")
    with pytest.raises(NumericsError, match=f"megaent: the relative error of {output} is"):
        case.check()


def test_a_backend_without_kl_is_not_asked_for_it() -> None:
    assert "cuda" not in our_backends(PATHS["kl"], "cuda", torch.bfloat16)


@pytest.mark.parametrize(("path", "forward", "training"), [("logits", 1, 3), ("kl", 2, 5), ("extras", 1, 3)])
def test_the_roofline_is_a_copy_of_all_that_must_be_read(path: str, forward: int, training: int) -> None:
    """In logits; a share of 1 moves them at the rate of the copy, which reads and writes each."""
    problem = small(path, num_rows=300)
    case = Case(problem, [Contender("torch eager", USUAL[path])], "cpu")
    case.check()
    for what, moved in zip(PASSES, (forward, training), strict=True):
        found = case.run(what, 1)
        row, roofline = found["contenders"][0], found["roofline"]
        num_bytes = row["share_of_roofline"] * row["median_wall_s"] * roofline["per_s"]
        assert num_bytes == pytest.approx(moved * 300 * 500 * 4)
        assert roofline["per_s"] * roofline["median_wall_s"] == pytest.approx(2 * forward * 300 * 500 * 4)


@every_path
def test_every_contender_of_a_cpu_is_right_and_timed(path: str) -> None:
    """torch.compile's come last in test_command.py: compiling takes its time."""
    entrants = [c for c in contenders(PATHS[path], "cpu", torch.float32, None) if c.name != "torch.compile"]
    problem = small(path)
    before = [x.clone() for x in (*problem.inputs, *problem.given)]
    case = Case(problem, entrants, "cpu")
    case.check()
    for what in PASSES:
        found = case.run(what, 2)
        timed = {row["name"] for row in found["contenders"] if "median_wall_s" in row}
        expected = {c.name for c in entrants if c.compute and (what == PASSES[1] or not c.trains_only)}
        assert timed == expected
        assert all(len(row["wall_s"]) == 2 for row in found["contenders"] if row["name"] in timed)
    # Those who write over their input got a copy.
    assert all(map(torch.equal, (*problem.inputs, *problem.given), before))
