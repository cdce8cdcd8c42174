"""The embedded engine against transformers: its tokens, its log-probabilities, its weights, its refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.real_shapes import KINDS, REAL, save_shape
from torch import Tensor
from torch.nn import Module, RMSNorm
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedModel

from megaent.errors import DataError, EngineError, ModelError, NumericsError
from megaent.model_folder.architecture import read_architecture
from megaent.randomness import uniform
from megaent.rollout.embedded.cache import GroupCache, Prompts, Remaining
from megaent.rollout.embedded.decode import Row, decode
from megaent.rollout.embedded.engine import EmbeddedEngine
from megaent.rollout.embedded.transformer import Angles, Attend, Transformer
from megaent.types import Group, Prompt, RolloutRequest, SamplingParams

# Of four lengths, one of them twice, and one prompt of a single token.
PROMPTS = ((5, 9, 2), (7,), (1, 2, 3, 4, 5, 6, 7, 8, 9), (11, 3, 60), (8, 8, 8, 8, 40))


def requests(group_size: int, prompts: tuple[tuple[int, ...], ...] = PROMPTS) -> list[RolloutRequest]:
    return [
        RolloutRequest(
            index=10 + index,
            prompt=Prompt(id=f"p/{index}", tokens=tokens, text="", answer=""),
            seeds=tuple(1000 * index + number for number in range(group_size)),
        )
        for index, tokens in enumerate(prompts)
    ]


def engine(folder: Path, *, batch_size: int = 128, load_weights: bool = True) -> EmbeddedEngine:
    return EmbeddedEngine(folder, dtype=torch.float32, batch_size=batch_size, load_weights=load_weights)


def hugging_face(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def saved_weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in hugging_face(folder).named_parameters()}


def tokens_of(groups: list[Group]) -> list[list[tuple[int, ...]]]:
    return [[response.tokens for response in group.responses] for group in groups]


# ---------------------------------------------------------------- what is generated


def test_greedy_is_what_transformers_generates(model_folder: Path) -> None:
    stop = 17
    model = hugging_face(model_folder)
    groups = engine(model_folder).generate(
        requests(1), SamplingParams(max_new_tokens=20, temperature=0.0, stop_token_ids=(stop,))
    )
    for group, prompt in zip(groups, PROMPTS, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=stop,
            pad_token_id=0,
        )
        assert group.responses[0].tokens == tuple(expected[0, len(prompt) :].tolist())


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (0.7, 0.6)])
def test_log_probs_are_those_of_the_whole_sequence_before_top_p(
    model_folder: Path, temperature: float, top_p: float
) -> None:
    model = hugging_face(model_folder)
    sampling = SamplingParams(
        max_new_tokens=20, temperature=temperature, top_p=top_p, stop_token_ids=(3, 17, 40)
    )
    groups = engine(model_folder, batch_size=7).generate(requests(4), sampling)
    for group in groups:
        for response in group.responses:
            sequence = torch.tensor([group.prompt.tokens + response.tokens])
            with torch.no_grad():
                logits_LV = model(sequence).logits[0, len(group.prompt.tokens) - 1 : -1]
            log_prob_LV = (logits_LV.double() / temperature).log_softmax(dim=-1)
            expected = log_prob_LV.gather(-1, torch.tensor(response.tokens)[:, None]).squeeze(-1)
            got = torch.tensor(response.log_prob, dtype=torch.float64)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_groups_keep_the_order_and_shape_of_their_requests(qwen2: Path) -> None:
    asked = requests(3)
    groups = engine(qwen2, batch_size=4).generate(asked, SamplingParams(max_new_tokens=5))
    assert [(group.index, group.prompt) for group in groups] == [(r.index, r.prompt) for r in asked]
    for group in groups:
        assert [len(response.tokens) for response in group.responses] == [5, 5, 5]
        assert [len(response.log_prob) for response in group.responses] == [5, 5, 5]
        assert {(r.finish, r.version, r.text) for r in group.responses} == {("length", 0, "")}
        assert group.grades == ()


@pytest.mark.parametrize("batch_size", [1, 5, 128])
def test_tokens_depend_on_seeds_alone(qwen2: Path, batch_size: int) -> None:
    sampling = SamplingParams(max_new_tokens=12, top_p=0.95, stop_token_ids=(3, 17))
    expected = engine(qwen2).generate(requests(4), sampling)
    tested = engine(qwen2, batch_size=batch_size)
    assert tokens_of(tested.generate(requests(4), sampling)) == tokens_of(expected)
    assert tokens_of(tested.generate(requests(4)[::-1], sampling)[::-1]) == tokens_of(expected)
    torch.manual_seed(5)  # torch's own generator has no part in it
    assert tokens_of(tested.generate(requests(4)[2:3], sampling)) == tokens_of(expected)[2:3]
    assert len({tokens for group in tokens_of(expected) for tokens in group}) > 15


def test_equal_calls_are_equal_to_the_bit(model_folder: Path) -> None:
    sampling = SamplingParams(max_new_tokens=24, stop_token_ids=(3, 17))
    tested = engine(model_folder)
    assert tested.generate(requests(4), sampling) == tested.generate(requests(4), sampling)


def test_one_prompt_asked_twice_is_answered_from_each_its_seeds(qwen2: Path) -> None:
    sampling = SamplingParams(max_new_tokens=8)
    twice = requests(3, (PROMPTS[0], PROMPTS[0]))
    expected = [engine(qwen2).generate([request], sampling)[0] for request in twice]
    assert tokens_of(engine(qwen2).generate(twice, sampling)) == tokens_of(expected)


def test_a_response_ends_with_its_stop_token(qwen2: Path) -> None:
    free = engine(qwen2).generate(requests(8), SamplingParams(max_new_tokens=24))
    stops = (3, 17, 40)
    stopped = engine(qwen2).generate(requests(8), SamplingParams(max_new_tokens=24, stop_token_ids=stops))
    finishes = set()
    for whole_group, group in zip(free, stopped, strict=True):
        for whole, response in zip(whole_group.responses, group.responses, strict=True):
            ends = [place for place, token in enumerate(whole.tokens) if token in stops]
            expected = whole.tokens[: ends[0] + 1] if ends else whole.tokens
            assert response.tokens == expected
            assert response.finish == ("stop" if ends else "length")
            finishes.add(response.finish)
    assert finishes == {"stop", "length"}


def test_a_stop_token_at_the_limit_is_a_stop(qwen2: Path) -> None:
    (group,) = engine(qwen2).generate(requests(1)[:1], SamplingParams(max_new_tokens=6))
    whole = group.responses[0].tokens
    assert whole[-1] not in whole[:-1]
    (group,) = engine(qwen2).generate(
        requests(1)[:1], SamplingParams(max_new_tokens=6, stop_token_ids=(whole[-1],))
    )
    assert (group.responses[0].tokens, group.responses[0].finish) == (whole, "stop")


def test_nothing_to_do_is_done(qwen2: Path) -> None:
    sampling = SamplingParams(max_new_tokens=4)
    assert engine(qwen2).generate([], sampling) == []
    groups = engine(qwen2).generate([*requests(0)[:1], *requests(2)[1:2]], sampling)
    assert [len(group.responses) for group in groups] == [0, 2]


class Counted(Transformer):
    """Notes how many tokens each pass computes."""

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        super().__init__(model, read_architecture(folder))
        self.tokens: list[int] = []

    def hidden(self, token_N: Tensor, angles_N: Angles, attend: Attend) -> Tensor:
        self.tokens.append(len(token_N))
        return super().hidden(token_N, angles_N, attend)


def test_no_token_is_computed_twice_or_after_its_response_ended(qwen2: Path) -> None:
    """Each distinct prompt is read once, and each drawn token but the last of a response is read once."""
    model = Counted(hugging_face(qwen2), qwen2)
    rows = [Row(request.prompt, seed) for request in requests(6) for seed in request.seeds]
    drawn = decode(model, rows, SamplingParams(max_new_tokens=24, stop_token_ids=(3, 17, 40)))
    assert model.tokens[0] == 5 * 9
    assert sum(model.tokens[1:]) == sum(len(c.tokens) - 1 for c in drawn)
    assert len({len(c.tokens) for c in drawn}) > 5


# ---------------------------------------------------------------- every architecture, to rounding


def exact(folder: Path) -> PreTrainedModel:
    """transformers in fp64, its norms, which it computes in fp32 always, replaced by torch's."""
    how = {"dtype": torch.float64, "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, **how).eval()
    for name, norm in [*model.named_modules()]:
        if name.endswith("norm"):
            parent, _, own = name.rpartition(".")
            model.get_submodule(parent).register_module(own, _exact_norm(norm))
    return model


def _exact_norm(norm: Module) -> RMSNorm:
    made = RMSNorm(norm.weight.shape, eps=norm.variance_epsilon, dtype=torch.float64)  # type: ignore[arg-type]
    made.weight = norm.weight  # type: ignore[assignment]
    return made


def whole_log_probs(model: PreTrainedModel, prompt: tuple[int, ...], response: tuple[int, ...]) -> Tensor:
    """[R, V] of every place of a response, from one pass without a cache."""
    with torch.no_grad():
        logits_LV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits_LV.log_softmax(-1)


# Groups of prompts of several lengths; responses longer than the room made at a time; some that end early.
STOPS = SamplingParams(max_new_tokens=90, stop_token_ids=(3, 17))


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["llama-3.1", "qwen2.5-yarn", "qwen3", "smollm2", "smollm3", "dynamic", "yarn-mscale"]
)
def test_shared_prompts_are_exact(tmp_path: Path, name: str) -> None:
    """To 1e-10 in fp64; tokens are those that fp64 and fp32 both choose."""
    folder = save_shape(tmp_path / name, (REAL | KINDS)[name])
    truth = exact(folder)
    groups = EmbeddedEngine(folder, dtype=torch.float64).generate(requests(4), STOPS)
    lengths = set()
    for group in groups:
        for response in group.responses:
            log_prob_RV = whole_log_probs(truth, group.prompt.tokens, response.tokens)
            expected = log_prob_RV.gather(-1, torch.tensor(response.tokens)[:, None])[:, 0]
            found = torch.tensor(response.log_prob, dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
            lengths.add(len(response.tokens))
    assert len(lengths) > 5
    assert max(lengths) > 64
    assert tokens_of(engine(folder).generate(requests(4), STOPS)) == tokens_of(groups)
    for group in engine(folder).generate(requests(1), SamplingParams(max_new_tokens=40, temperature=0.0)):
        greedy = group.responses[0].tokens
        assert greedy == tuple(whole_log_probs(truth, group.prompt.tokens, greedy).argmax(-1).tolist())


def test_what_a_step_holds_of_a_prompt_does_not_grow_with_its_group(qwen2: Path) -> None:
    """Prompts whose responses have all ended are not held either."""
    prompts = Prompts([9, 3], torch.device("cpu"))
    transformer = Transformer(hugging_face(qwen2), read_architecture(qwen2))
    angles = transformer.angles(9)
    token_N = torch.tensor([*PROMPTS[2], *PROMPTS[0], *[0] * 6])
    with torch.inference_mode():
        transformer.hidden(token_N, angles.at(torch.arange(9).repeat(2)), prompts.attend)
        cache = GroupCache(prompts, [0, 0, 0, 1, 1])
        assert {key.shape for key, _ in prompts.layers} == {(2, 2, 9, 8)}
        cache.keep(Remaining.of([False, False, False, True, True], torch.device("cpu")))
    assert {key.shape for key, _ in prompts.layers} == {(1, 2, 9, 8)}
    assert prompts.lengths == [3]


# ---------------------------------------------------------------- weights


def test_published_weights_are_the_ones_in_use(qwen2: Path, other_qwen2: Path) -> None:
    sampling = SamplingParams(max_new_tokens=12)
    expected = engine(other_qwen2).generate(requests(2), sampling)
    tested = engine(qwen2)
    before = tested.generate(requests(2), sampling)
    new = saved_weights(other_qwen2)
    assert "lm_head.weight" not in new
    tested.receive_weights(new.items(), 5)
    after = tested.generate(requests(2), sampling)
    assert tokens_of(after) == tokens_of(expected) != tokens_of(before)
    assert [r.log_prob for g in after for r in g.responses] == [
        r.log_prob for g in expected for r in g.responses
    ]
    assert {r.version for group in after for r in group.responses} == {tested.version} == {5}
    held = dict(tested.weights())
    assert held.keys() == new.keys()
    assert all(held[name].equal(tensor) for name, tensor in new.items())


def test_an_untied_output_layer_is_published_too(model_folders: dict[str, Path]) -> None:
    """One of zeros makes every token equally probable, and each draw its uniform number times V."""
    tested = engine(model_folders["llama"])
    new = saved_weights(model_folders["llama"])
    new["lm_head.weight"] = torch.zeros_like(new["lm_head.weight"])
    tested.receive_weights(new.items(), 1)
    position = torch.arange(6)
    for request, group in zip(
        requests(2), tested.generate(requests(2), SamplingParams(max_new_tokens=6)), strict=True
    ):
        for seed, response in zip(request.seeds, group.responses, strict=True):
            expected = (64 * uniform(torch.full_like(position, seed), position)).floor().long()
            assert response.tokens == tuple(expected.tolist())
            assert response.log_prob == pytest.approx([-math.log(64)] * 6, abs=1e-6)


def test_weights_are_cast_to_the_engines_dtype(qwen2: Path) -> None:
    tested = EmbeddedEngine(qwen2, dtype=torch.bfloat16, load_weights=False)
    new = saved_weights(qwen2)
    tested.receive_weights(((name, tensor.double()) for name, tensor in new.items()), 0)
    for name, tensor in tested.weights():
        assert tensor.dtype == torch.bfloat16
        assert tensor.equal(new[name].bfloat16())
    (group, *_) = tested.generate(requests(1), SamplingParams(max_new_tokens=3))
    assert len(group.responses[0].tokens) == 3


def test_an_engine_without_weights_waits_for_them(qwen2: Path) -> None:
    state = torch.random.get_rng_state()
    tested = engine(qwen2, load_weights=False)
    assert torch.random.get_rng_state().equal(state)
    assert tested.version == -1
    with pytest.raises(EngineError, match="no weights: it has not received any yet"):
        tested.generate(requests(1), SamplingParams(max_new_tokens=2))
    tested.receive_weights(saved_weights(qwen2).items(), 0)
    sampling = SamplingParams(max_new_tokens=6)
    assert tested.generate(requests(2), sampling) == engine(qwen2).generate(requests(2), sampling)


Stream = Iterator[tuple[str, Tensor]]
NORM = "model.layers.1.input_layernorm.weight"


def without_norm(weights: dict[str, Tensor]) -> Stream:
    return ((name, tensor) for name, tensor in weights.items() if name != NORM)


def with_stranger(weights: dict[str, Tensor]) -> Stream:
    yield "lm_head.weight", weights["model.embed_tokens.weight"]
    yield from weights.items()


def with_repeat(weights: dict[str, Tensor]) -> Stream:
    yield from weights.items()
    yield NORM, weights[NORM]


def with_wrong_shape(weights: dict[str, Tensor]) -> Stream:
    # Of a shape that would broadcast if it were copied unchecked.
    yield from (weights | {NORM: torch.ones(1)}).items()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_norm, rf"{NORM} is missing, 1 of \d+ in all"),
        (with_stranger, "lm_head.weight is unknown to this model"),
        (with_repeat, f"{NORM} came twice"),
        (with_wrong_shape, rf"{NORM} must have shape \[32\], got \[1\]"),
    ],
)
def test_a_spoilt_set_is_refused_by_name_and_leaves_no_weights(
    qwen2: Path, other_qwen2: Path, spoil: Callable[[dict[str, Tensor]], Stream], message: str
) -> None:
    tested = engine(qwen2)
    stream = spoil(saved_weights(other_qwen2))
    with pytest.raises(EngineError, match=f"version 3 were refused: {message}"):
        tested.receive_weights(stream, 3)
    assert next(stream, None) is None, "the stream must be read to its end"
    assert tested.version == -1
    with pytest.raises(EngineError, match=f"no weights: the last set was refused .{message}"):
        tested.generate(requests(1), SamplingParams(max_new_tokens=2))
    with pytest.raises(EngineError, match="no weights"):
        next(tested.weights())
    tested.receive_weights(saved_weights(other_qwen2).items(), 4)
    sampling = SamplingParams(max_new_tokens=6)
    assert tokens_of(tested.generate(requests(1), sampling)) == tokens_of(
        engine(other_qwen2).generate(requests(1), sampling)
    )
    assert tested.version == 4


def test_a_stream_that_breaks_leaves_no_weights(qwen2: Path, other_qwen2: Path) -> None:
    def broken() -> Stream:
        yield next(iter(saved_weights(other_qwen2).items()))
        raise TimeoutError("the trainer went away")

    tested = engine(qwen2)
    with pytest.raises(TimeoutError):
        tested.receive_weights(broken(), 3)
    assert tested.version == -1
    with pytest.raises(EngineError, match="the last set did not arrive completely"):
        tested.generate(requests(1), SamplingParams(max_new_tokens=2))


# ---------------------------------------------------------------- refusals


def test_a_prompt_too_long_for_the_context_is_refused_by_name(qwen2: Path) -> None:
    tested = engine(qwen2)
    tested.generate(requests(1), SamplingParams(max_new_tokens=55))  # 9 + 55 = 64, the whole context
    with pytest.raises(DataError, match="prompt 'p/2' has 9 tokens; with max_new_tokens = 56"):
        tested.generate(requests(1), SamplingParams(max_new_tokens=56))


def test_a_token_outside_the_vocabulary_is_refused_by_name(qwen2: Path) -> None:
    with pytest.raises(DataError, match="prompt 'p/1' holds token 64"):
        engine(qwen2).generate(requests(1, ((1, 2), (3, 64))), SamplingParams(max_new_tokens=2))


def test_logits_that_are_not_finite_are_refused_by_prompt_and_seed(model_folders: dict[str, Path]) -> None:
    tested = engine(model_folders["llama"])
    weights = saved_weights(model_folders["llama"])
    # Token 60 occurs in the prompt p/3 alone, and the output layer is another matrix.
    weights["model.embed_tokens.weight"][60] = float("nan")
    tested.receive_weights(weights.items(), 1)
    tested.generate(requests(2)[:3], SamplingParams(max_new_tokens=1))
    with pytest.raises(NumericsError, match="prompt 'p/3', seed 3000, response token 0"):
        tested.generate(requests(2), SamplingParams(max_new_tokens=1))


def test_a_model_of_another_architecture_is_refused(tmp_path: Path) -> None:
    GPT2Config(n_layer=1, n_embd=8, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"must be one of qwen2, qwen3, llama, .* got 'gpt2'"):
        engine(tmp_path)


def test_sliding_window_attention_is_refused(qwen2: Path, tmp_path: Path) -> None:
    config = json.loads((qwen2 / "config.json").read_text())
    config |= {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    del config["layer_types"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="a sliding window of 4 tokens"):
        engine(tmp_path)


def test_a_folder_without_a_model_is_refused(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a Hugging Face folder with a config\.json"):
        engine(tmp_path)
    shutil.copy(qwen2 / "config.json", tmp_path)
    with pytest.raises(ModelError, match=r"has neither model.safetensors nor"):
        engine(tmp_path)
    assert engine(tmp_path, load_weights=False).version == -1


def test_a_damaged_weight_file_is_refused(qwen2: Path, tmp_path: Path) -> None:
    shutil.copytree(qwen2, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"model.safetensors cannot be read: its header"):
        engine(tmp_path)


def test_a_folder_with_too_few_weights_is_refused(qwen2: Path, tmp_path: Path) -> None:
    shutil.copytree(qwen2, tmp_path, dirs_exist_ok=True)
    config = json.loads((qwen2 / "config.json").read_text())
    config |= {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"lacks tensors: model\.layers\.2\..* and 11 more"):
        engine(tmp_path)


def test_a_closed_engine_says_so(qwen2: Path) -> None:
    tested = engine(qwen2)
    tested.close()
    tested.close()
    with pytest.raises(EngineError, match="closed"):
        tested.generate(requests(1), SamplingParams(max_new_tokens=2))
    with pytest.raises(EngineError, match="closed"):
        tested.receive_weights([], 1)


def test_the_engine_reports_the_most_probable_tokens_beside_each(qwen2: Path) -> None:
    tested = engine(qwen2)
    sampling = SamplingParams(max_new_tokens=5, temperature=0.9)
    plain = tested.generate(requests(3), sampling)
    asked = tested.generate(requests(3), replace(sampling, top_log_probs=4))
    for one, other in zip(plain, asked, strict=True):
        for before, response in zip(one.responses, other.responses, strict=True):
            assert (before.tokens, before.log_prob) == (response.tokens, response.log_prob)
            assert before.top_tokens == ()
            assert len(response.top_tokens) == len(response.top_log_prob) == len(response.tokens)
            rows = zip(
                response.tokens, response.log_prob, response.top_tokens, response.top_log_prob, strict=True
            )
            for token, log_prob, ids, values in rows:
                assert list(values) == sorted(values, reverse=True)
                assert len(set(ids)) == 4
                if token in ids:
                    assert values[ids.index(token)] == log_prob
                else:
                    assert log_prob <= values[-1]


# ---------------------------------------------------------------- mixtures of experts


@pytest.mark.full
@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral"])
def test_published_experts_are_loaded_ones(tmp_path: Path, name: str) -> None:
    """transformers stacks experts; they come and go under the names that files use."""
    folder = save_shape(tmp_path / name, REAL[name])
    loaded, published = engine(folder), engine(folder, load_weights=False)
    stored = load_file(folder / "model.safetensors")
    published.receive_weights(stored.items(), 1)
    found = dict(published.weights())
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[key], stored[key]) for key in stored)
    one, other = (
        drawn.generate(requests(2), SamplingParams(max_new_tokens=6)) for drawn in (loaded, published)
    )
    assert tokens_of(one) == tokens_of(other)
    assert one[0].responses[0].log_prob == other[0].responses[0].log_prob


@pytest.mark.full
def test_an_expert_that_is_missing_or_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = save_shape(tmp_path / "mixtral", REAL["mixtral"])
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    with pytest.raises(EngineError, match=rf"{name} is missing, 1 of"):
        engine(folder).receive_weights([(k, v) for k, v in stored.items() if k != name], 1)
    with pytest.raises(EngineError, match=rf"{name} must have shape"):
        engine(folder).receive_weights((stored | {name: stored[name].T}).items(), 1)
