"""What the layout tests leave out: the reference policy, bf16, and refusals. One process."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support.builders import group, seen
from support.plain_lm import PlainModel, PlainResponse
from support.tiny_hf import save_tiny

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.actor.router_options import RouterOptions
from megaent.actor.sizes import Sizes
from megaent.errors import ConfigError, ModelError, NumericsError
from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.objective.parts import parts
from megaent.types import Experience, Metrics

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("actor") / "model", family="qwen2", tie=False)


def make(folder: Path, layout: Layout, **options: object) -> MegatronActor:
    return MegatronActor(
        folder, layout, ActorOptions(**{"dtype": "float64"} | options), AdamOptions(lr=1e-2, clip_grad=0.0)
    )


def batch() -> Experience:
    packed = pack([group(0, [1.0, 0.0], [5, 9]), group(1, [0.0, 1.0, 1.0], [3, 1, 17])])
    return replace(packed, token=packed.token % 100)


def update(actor: MegatronActor, experience: Experience, **options: object) -> Metrics:
    method = build_method({"grpo": options}).phases[0].method
    terms, _ = estimate(method, seen(experience, population=actor.layout))
    return actor.update(experience, terms, method.loss, temperature=1.0, num_minibatches=1)


def weights(actor: MegatronActor) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in actor.named_weights()}


def test_the_reference_stays_while_the_policy_moves(layout: Layout, folder: Path) -> None:
    actor = make(folder, layout)
    actor.keep_reference()
    first = actor.score(batch(), temperature=1.0, with_reference=True)
    assert torch.equal(first.log_prob_ref, first.log_prob_old)
    update(actor, first)
    moved = weights(actor)
    second = actor.score(batch(), temperature=1.0, with_reference=True)
    assert torch.equal(second.log_prob_ref, first.log_prob_ref)
    assert not torch.allclose(second.log_prob_old, first.log_prob_old, atol=1e-3)
    assert all(torch.equal(moved[name], value) for name, value in weights(actor).items())


def test_kl_and_entropy_terms_have_the_gradient_of_their_definition(layout: Layout, folder: Path) -> None:
    actor = make(folder, layout)
    actor.keep_reference()
    update(actor, actor.score(batch(), temperature=1.0))
    scored = actor.score(batch(), temperature=1.0, with_reference=True)
    plain = PlainModel(PlainModel.load(folder, torch.float64).config, weights(actor))
    for value in plain.weights.values():
        value.requires_grad_()
    update(actor, scored, entropy_coef=0.3, kl_coef=0.7)
    found = actor.models[0].decoder.final_layernorm.weight.main_grad
    loss = plain_loss(plain, scored)
    [expected] = torch.autograd.grad(loss, [plain.weights["model.norm.weight"]])
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    without = plain_loss(plain, scored, entropy_coef=0.0, kl_coef=0.0)
    [other] = torch.autograd.grad(without, [plain.weights["model.norm.weight"]])
    assert not torch.allclose(found, other, rtol=0, atol=1e-4), "the two terms must matter here"


def test_each_part_of_the_loss_has_the_gradient_norm_of_its_definition(layout: Layout, folder: Path) -> None:
    """And asking for it changes nothing that is learnt afterwards."""
    actor, other = make(folder, layout), make(folder, layout)
    for each in (actor, other):
        each.keep_reference()
        update(each, each.score(batch(), temperature=1.0))
    scored = actor.score(batch(), temperature=1.0, with_reference=True)
    other.score(batch(), temperature=1.0, with_reference=True)
    plain = PlainModel(PlainModel.load(folder, torch.float64).config, weights(actor))
    for value in plain.weights.values():
        value.requires_grad_()

    method = build_method({"grpo": {"entropy_coef": 0.3, "kl_coef": 0.7}}).phases[0].method
    terms, _ = estimate(method, seen(scored, population=actor.layout))
    found = {
        name: actor.gradient_norm(scored, terms, part, temperature=1.0)
        for name, part in parts(method.loss).items()
    }

    def norm_of(loss: torch.Tensor) -> float:
        leaves = list(plain.weights.values())
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
        return float(torch.cat([g.flatten() for g in gradients if g is not None]).norm())

    policy = plain_loss(plain, scored, entropy_coef=0.0, kl_coef=0.0)
    expected = {
        "policy": norm_of(policy),
        "entropy_bonus": norm_of(plain_loss(plain, scored, kl_coef=0.0) - policy),
        "kl_to_ref": norm_of(plain_loss(plain, scored, entropy_coef=0.0) - policy),
    }
    # Megatron sums squares in fp32.
    assert found == pytest.approx(expected, rel=1e-6)
    assert min(expected.values()) > 1e-3, "every part must matter here"
    for each in (actor, other):
        update(each, scored, entropy_coef=0.3, kl_coef=0.7)
    assert all(torch.equal(weights(other)[name], value) for name, value in weights(actor).items())


def test_losses_of_routers_are_no_part_of_the_policys_gradient(layout: Layout, tmp_path: Path) -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "head_dim": 16}
    mixture = save_tiny(tmp_path / "mixture", family="qwen3_moe", tie=False, num_hidden_layers=2, **sizes)
    method = build_method({"grpo": {"entropy_coef": 0.3}}).phases[0].method
    norms, learnt = [], []
    for coef in (0.0, 0.5):
        actor = make(mixture, layout, router=RouterOptions(balance_coef=coef))
        scored = actor.score(batch(), temperature=1.0)
        terms, _ = estimate(method, seen(scored, population=actor.layout))
        norms.append(
            [
                actor.gradient_norm(scored, terms, part, temperature=1.0)
                for part in parts(method.loss).values()
            ]
        )
        learnt.append(update(actor, scored, entropy_coef=0.3)["grad/norm"])
    assert norms[0] == norms[1]
    assert min(norms[0]) > 1e-3
    assert learnt[0] != pytest.approx(learnt[1], rel=1e-3), "the loss must matter here"


def plain_loss(
    plain: PlainModel, scored: Experience, *, entropy_coef: float = 0.3, kl_coef: float = 0.7
) -> torch.Tensor:
    """On-policy GRPO, so that the ratio is 1 and no clip is active, written out by the response."""
    total = torch.zeros((), dtype=torch.float64)
    starts = [0, *scored.length.cumsum(0).tolist()]
    for response, (start, stop) in enumerate(pairwise(starts)):
        prompt = scored.prompts[int(scored.group[response])]
        siblings = scored.reward[scored.group == scored.group[response]]
        advantage = (scored.reward[response] - siblings.mean()) / (siblings.std() + 1e-6)
        item = PlainResponse(
            prompt=list(prompt.tokens), tokens=scored.token[start:stop].tolist(), reward=0.0, group=0
        )
        log_prob, entropy = plain.log_prob_entropy(item, 1.0)
        ratio = (log_prob - log_prob.detach()).exp()
        d = log_prob - scored.log_prob_ref[start:stop]
        total = (
            total + (-advantage * ratio - entropy_coef * entropy + kl_coef * (torch.exp(-d) + d - 1)).sum()
        )
    return total / scored.num_tokens


def test_the_entropy_over_a_nucleus_is_scored_and_its_term_has_its_gradient(
    layout: Layout, folder: Path
) -> None:
    """Of the whole vocabulary, where the plain model says what it is; a smaller nucleus has less."""
    actor = make(folder, layout)
    half = actor.score(batch(), temperature=1.0, nucleus_p=0.5).nucleus_entropy
    scored = actor.score(batch(), temperature=1.0, nucleus_p=1.0)
    assert torch.equal(scored.nucleus_entropy, scored.entropy)
    assert bool((half < scored.entropy).all())
    method = build_method({"siren": {"p": 1.0, "anchor": 1.0, "coef": 0.5, "quantile": 0.4}}).phases[0].method
    coefs = {"siren_anchor": 1.0, "siren_is_set": 1.0}
    terms, _ = estimate(method, seen(scored, population=actor.layout, coefs=coefs))
    terms = replace(terms, policy_weight=torch.zeros_like(terms.policy_weight))
    plain = PlainModel(PlainModel.load(folder, torch.float64).config, weights(actor))
    for value in plain.weights.values():
        value.requires_grad_()
    actor.update(scored, terms, method.loss, temperature=1.0, num_minibatches=1)
    found = actor.models[0].decoder.final_layernorm.weight.main_grad
    rows, starts = [], [0, *scored.length.cumsum(0).tolist()]
    for response, (start, stop) in enumerate(pairwise(starts)):
        prompt = list(scored.prompts[int(scored.group[response])].tokens)
        item = PlainResponse(prompt=prompt, tokens=scored.token[start:stop].tolist(), reward=0.0, group=0)
        rows.append(plain.log_prob_entropy(item, 1.0)[1])
    is_peak = torch.cat([row > row.quantile(0.4) for row in rows])
    loss = 0.5 * (torch.cat(rows)[is_peak].mean() - 1.0).square()
    [expected] = torch.autograd.grad(loss, [plain.weights["model.norm.weight"]])
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    assert float(expected.abs().max()) > 1e-4


def test_a_loss_over_a_nucleus_that_was_not_scored_is_refused(layout: Layout, folder: Path) -> None:
    actor = make(folder, layout)
    scored = actor.score(batch(), temperature=1.0)
    method = build_method({"siren": {"anchor": 1.0}}).phases[0].method
    terms, _ = estimate(build_method({"grpo": {}}).phases[0].method, seen(scored, population=actor.layout))
    with pytest.raises(ValueError, match=r"score with nucleus_p=0\.8 first"):
        actor.update(scored, terms, method.loss, temperature=1.0, num_minibatches=1)


def test_microbatches_change_nothing_but_rounding(layout: Layout, folder: Path) -> None:
    whole, split = make(folder, layout), make(folder, layout, microbatch_tokens=20)
    for actor in (whole, split):
        update(actor, actor.score(batch(), temperature=1.0))
    left, right = weights(whole), weights(split)
    assert max(float((left[name] - right[name]).abs().max()) for name in left) < 1e-10


def test_bf16_scores_near_fp32(layout: Layout, folder: Path) -> None:
    exact = make(folder, layout).score(batch(), temperature=1.0)
    rough = make(folder, layout, dtype="bfloat16").score(batch(), temperature=1.0)
    assert rough.log_prob_old.dtype == torch.float32
    difference = (rough.log_prob_old - exact.log_prob_old).abs()
    assert 0 < float(difference.mean()) < 0.2


def test_a_sequence_over_the_budget_is_refused_with_its_length(layout: Layout, folder: Path) -> None:
    with pytest.raises(ConfigError, match="a sequence of 19 tokens exceeds"):
        make(folder, layout, microbatch_tokens=10).score(batch(), temperature=1.0)


def test_weights_that_are_not_finite_are_seen_when_scoring(layout: Layout, folder: Path) -> None:
    actor = make(folder, layout)
    with torch.no_grad():
        actor.models[0].decoder.final_layernorm.weight[0] = torch.nan
    with pytest.raises(NumericsError, match="expected finite numbers"):
        actor.score(batch(), temperature=1.0)


def test_a_reference_must_have_been_kept(layout: Layout, folder: Path) -> None:
    with pytest.raises(ConfigError, match="keep_reference"):
        make(folder, layout).score(batch(), temperature=1.0, with_reference=True)


def test_a_folder_without_a_model_is_named(layout: Layout, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Hugging Face folder with a config.json"):
        make(tmp_path, layout)


@pytest.mark.parametrize(("size", "tp", "pp", "cp"), [(3, 2, 1, 1), (2, 2, 2, 1), (1, 1, 1, 2)])
def test_a_world_that_the_layout_does_not_divide_is_refused(size: int, tp: int, pp: int, cp: int) -> None:
    with pytest.raises(ConfigError, match=f"the world has {size}; start with torchrun --nproc-per-node"):
        Sizes(tp=tp, pp=pp, cp=cp).check_world(size)
