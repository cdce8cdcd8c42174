"""Which tokens KL-Cov holds when a minibatch is split into microbatches: verl's function beside ours.

    ./scripts/setup_estimators
    .venv/bin/python benchmarks/kl_cov_splits.py OUT.json      the table in Markdown is printed

One minibatch of 64 responses, drawn once: lengths, log-probabilities with a long tail, rewards of a group and
a policy that has moved a little. verl's ``compute_policy_loss_kl_cov`` and what it calls are taken out of its
installed source and run as they are, a microbatch at a time, with the token count of the whole minibatch;
ours is ``kl_cov`` through ``estimate`` and ``Loss``, as the actor calls them. A token is held when its
gradient is not the policy term's alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from estimators import SITE, taken
from torch import Tensor

from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.objective.seen import Seen
from megaent.types import Alone, Experience, Grade, Group, PolicyView, Prompt, Response

SPLITS = (1, 2, 4, 8, 16, 32, 64)
FRACTIONS = (2e-3, 2e-4)  # published for 7B and for 32B
PROMPTS, GROUP = 8, 8

Gradient = Callable[[list[Tensor]], Tensor]
"""Of the minibatch's loss to each token's log-probability, [T], given the tokens of each microbatch."""


def main(out: Path, environment: Path) -> None:
    batch, log_prob_T = drawn()
    (site,) = environment.glob(SITE)
    plain_T = -advantages(batch) * (log_prob_T - batch.log_prob_old).exp()
    rows = []
    for fraction in FRACTIONS:
        for name, gradient in contenders(site, batch, log_prob_T, fraction).items():
            rows += measured(name, fraction, gradient, batch, plain_T)
    told = {
        "tokens": batch.num_tokens,
        "torch": torch.__version__,
        "versions": versions(environment),
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")
    print(table(rows))


def versions(environment: Path) -> str:
    return (environment / ".made_of").read_text()


# ---------------------------------------------------------------- the minibatch


def drawn() -> tuple[Experience, Tensor]:
    """Scored by the old policy, and [T] what the current one says."""
    noise = torch.Generator().manual_seed(0)
    groups = [group(index, noise) for index in range(PROMPTS)]
    batch = pack(groups)
    old_T = batch.log_prob_engine.double()
    entropy_T = -old_T
    batch = replace(batch, log_prob_old=old_T, entropy=entropy_T, minibatch=torch.zeros_like(batch.owner))
    moved_T = 0.05 * torch.randn(batch.num_tokens, generator=noise, dtype=torch.float64)
    return batch, (old_T + moved_T * old_T.abs().sqrt()).clamp(max=-1e-6)


def group(index: int, noise: torch.Generator) -> Group:
    """Most tokens are nearly certain, a fifth is not; half of the responses are right on average."""
    responses, grades = [], []
    for _ in range(GROUP):
        length = int(torch.randint(50, 600, (), generator=noise))
        is_open = torch.rand(length, generator=noise) < 0.2
        surprise = -torch.rand(length, generator=noise).log()
        log_prob = torch.where(is_open, -surprise, -0.01 * surprise).clamp(max=-1e-6)
        tokens = tuple(range(length))
        responses.append(Response(tokens=tokens, log_prob=tuple(log_prob.tolist()), finish="stop", version=0))
        right = float(torch.rand((), generator=noise) < 0.5)
        grades.append(Grade(reward=right, correct=bool(right)))
    prompt = Prompt(id=str(index), tokens=(1,), text="", answer="")
    return Group(index=index, prompt=prompt, responses=tuple(responses), grades=tuple(grades))


def split(batch: Experience, number: int) -> list[Tensor]:
    """The tokens of each microbatch: an equal number of responses each, in order."""
    owners = torch.arange(batch.num_responses).chunk(number)
    return [torch.isin(batch.owner, members).nonzero()[:, 0] for members in owners]


# ---------------------------------------------------------------- who holds what


def contenders(site: Path, batch: Experience, log_prob_T: Tensor, fraction: float) -> dict[str, Gradient]:
    return {
        "verl 0.9.1": verl(site, batch, log_prob_T, fraction),
        "megaent, scope=micro": ours(batch, log_prob_T, fraction, "micro"),
        "megaent": ours(batch, log_prob_T, fraction, "mini"),
    }


def ours(batch: Experience, log_prob_T: Tensor, fraction: float, scope: str) -> Gradient:
    method = build_method({"kl_cov": {"fraction": fraction, "scope": scope}}).phases[0].method
    terms, _ = estimate(method, seen_of(batch))

    def gradient(microbatches: list[Tensor]) -> Tensor:
        leaf_T = log_prob_T.clone().requires_grad_()
        for place_N in microbatches:
            view = PolicyView(
                log_prob=leaf_T[place_N],
                entropy=batch.entropy[place_N],
                old=batch.old.at(place_N),
                terms=terms.at(place_N),
                num_responses=batch.num_responses,
                population=Alone(),
            )
            (view.terms.weight * method.loss(view)[0]).sum().backward()
        assert leaf_T.grad is not None
        return leaf_T.grad * batch.num_tokens

    return gradient


def verl(site: Path, batch: Experience, log_prob_T: Tensor, fraction: float) -> Gradient:
    algorithms, functional = site / "verl/trainer/ppo/core_algos.py", site / "verl/utils/torch_functional.py"
    masked = {name: taken(functional, name, torch=torch) for name in ("masked_sum", "masked_mean")}
    masked["masked_mean"].__globals__["masked_sum"] = masked["masked_sum"]
    names = {"torch": torch, "verl_F": SimpleNamespace(**masked)}
    names |= {"ActorConfig": object, "AlgoConfig": type("AlgoConfig", (), {})}
    names |= {"register_policy_loss": lambda name: lambda function: function}
    names["agg_loss"] = taken(algorithms, "agg_loss", **names)
    loss = taken(algorithms, "compute_policy_loss_kl_cov", **names)
    config = SimpleNamespace(
        policy_loss=SimpleNamespace(kl_cov_ratio=fraction, ppo_kl_coef=1.0),
        global_batch_info={"batch_num_tokens": batch.num_tokens, "dp_size": 1},
    )
    advantage_T = advantages(batch)

    def gradient(microbatches: list[Tensor]) -> Tensor:
        leaf_T = log_prob_T.clone().requires_grad_()
        for place_N in microbatches:
            rows = [place_N[batch.owner[place_N] == owner] for owner in batch.owner[place_N].unique()]
            old, new, advantage, mask = (
                torch.nn.utils.rnn.pad_sequence([values[row] for row in rows], batch_first=True)
                for values in (batch.log_prob_old, leaf_T, advantage_T, torch.ones_like(advantage_T))
            )
            loss(old, new, advantage, mask, "token-mean", config)[0].backward()
        assert leaf_T.grad is not None
        return leaf_T.grad * batch.num_tokens

    return gradient


def advantages(batch: Experience) -> Tensor:
    """[T] as GRPO has them: reward minus the group's mean, over its deviation."""
    method = build_method({"grpo": {}}).phases[0].method
    return estimate(method, seen_of(batch))[0].advantage.double()


def seen_of(batch: Experience) -> Seen:
    """One minibatch, one replica."""
    return Seen(batch=batch, population=Alone(), minibatch_S=torch.zeros_like(batch.group), num_minibatches=1)


# ---------------------------------------------------------------- the table


def measured(
    name: str, fraction: float, gradient: Gradient, batch: Experience, plain_T: Tensor
) -> list[dict[str, object]]:
    """``plain_T`` [T] is the gradient of the policy term alone."""
    whole_T = gradient(split(batch, 1))
    held_whole = is_held(whole_T, plain_T)
    expected = max(1, int(fraction * batch.num_tokens))
    rows: list[dict[str, object]] = []
    for number in SPLITS:
        found_T = gradient(split(batch, number))
        held = is_held(found_T, plain_T)
        rows.append(
            {
                "who": name,
                "fraction": fraction,
                "microbatches": number,
                "held": int(held.sum()),
                "asked for": expected,
                "also held unsplit": int((held & held_whole).sum()),
                "gradient, relative difference": float((found_T - whole_T).norm() / whole_T.norm()),
            }
        )
    return rows


def is_held(gradient_T: Tensor, plain_T: Tensor) -> Tensor:
    return (gradient_T - plain_T).abs() > 0.5  # the term's gradient is +1 or -1


def table(rows: list[dict[str, object]]) -> str:
    """Tokens held, how many of them unsplit too, and how far the gradient went, for each who."""
    names = list(dict.fromkeys(row["who"] for row in rows))
    lines = [
        "| fraction | microbatches | asked for | " + " | ".join(map(str, names)) + " |",
        "| ---: | ---: | ---: |" + " ---: |" * len(names),
    ]
    for fraction in FRACTIONS:
        for number in SPLITS:
            alike = [r for r in rows if (r["fraction"], r["microbatches"]) == (fraction, number)]
            cells = [cell(row) for row in alike]
            lines.append(f"| {fraction:g} | {number} | {alike[0]['asked for']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(row: dict[str, object]) -> str:
    moved = float(str(row["gradient, relative difference"]))
    return f"{row['held']}, {row['also held unsplit']}, {100 * moved:.1f} %"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else ".venv-estimators"))
