"""One draw: the right distribution, the right log-probability, and nothing but (seed, position, logits)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from megaent.errors import ConfigError, DataError, ModelError
from megaent.randomness import uniform
from megaent.rollout.sampling import draw, invert_cdf, nucleus, require_prompts, require_sampling
from megaent.types import Prompt, RolloutRequest, SamplingParams


def params(**changes: float) -> SamplingParams:
    return SamplingParams(max_new_tokens=8, **changes)  # type: ignore[arg-type]


def logits(rows: int, vocab: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2.0 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)).to(dtype)


def drawn(
    logits_BV: Tensor, *, seed_B: Tensor, position_B: Tensor, **arguments: Any
) -> tuple[Tensor, Tensor]:
    """Token and log-probability of each row."""
    result = draw(logits_BV, uniform_B=uniform(seed_B, position_B), **arguments)
    return result.token_B, result.log_prob_B


def draw_many(row_V: list[float], count: int, sampling: SamplingParams) -> list[int]:
    """``count`` draws from one distribution, each from a seed of its own."""
    seed_B = torch.arange(count)
    token_B, _ = drawn(
        torch.tensor(row_V).expand(count, -1), sampling=sampling, seed_B=seed_B, position_B=seed_B % 7
    )
    return token_B.tolist()


def softmax(row_V: list[float], temperature: float) -> list[float]:
    weights = [math.exp((x - max(row_V)) / temperature) for x in row_V]
    return [weight / math.fsum(weights) for weight in weights]


def chi_square(tokens: list[int], expected: list[float]) -> float:
    counts = [tokens.count(token) for token in range(len(expected))]
    return sum((n - len(tokens) * p) ** 2 / (len(tokens) * p) for n, p in zip(counts, expected, strict=True))


ROW = [0.3, -1.0, 1.2, 0.0, -0.4, 0.9, -2.0, 0.5]
CHI_SQUARE_7_0_999 = 24.32  # 0.999 quantile of chi-square with 7 degrees of freedom


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_draws_follow_the_softmax(temperature: float) -> None:
    tokens = draw_many(ROW, 20_000, params(temperature=temperature))
    assert chi_square(tokens, softmax(ROW, temperature)) < CHI_SQUARE_7_0_999
    # The same draws refute a neighbouring distribution, so the bound above means something.
    assert chi_square(tokens, softmax(ROW, temperature * 1.2)) > 2 * CHI_SQUARE_7_0_999


def test_draws_at_neighbouring_positions_of_one_seed_are_independent() -> None:
    position_B = torch.arange(20_000)
    row_BV = torch.zeros(20_000, 4)
    token_B, _ = drawn(
        row_BV, sampling=params(), seed_B=torch.full_like(position_B, 9), position_B=position_B
    )
    pairs = (4 * token_B[:-1] + token_B[1:]).tolist()
    # 0.999 quantile with 15 degrees of freedom.
    assert chi_square(pairs, [1 / 16] * 16) < 37.7


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("top_p", [1.0, 0.3])
def test_log_prob_is_that_of_the_whole_softmax_at_temperature(
    dtype: torch.dtype, tolerance: float, temperature: float, top_p: float
) -> None:
    logits_BV = logits(50, 11, dtype=dtype)
    seed_B = torch.arange(50)
    token_B, log_prob_B = drawn(
        logits_BV, sampling=params(temperature=temperature, top_p=top_p), seed_B=seed_B, position_B=seed_B
    )
    assert log_prob_B.dtype == dtype
    for row, token, log_prob in zip(logits_BV.tolist(), token_B.tolist(), log_prob_B.tolist(), strict=True):
        assert log_prob == pytest.approx(math.log(softmax(row, temperature)[token]), abs=tolerance)


def test_bfloat16_logits_get_fp32_log_probs() -> None:
    logits_BV = logits(50, 11, dtype=torch.bfloat16)
    seed_B = torch.arange(50)
    _, rounded_B = drawn(logits_BV, sampling=params(), seed_B=seed_B, position_B=seed_B)
    _, exact_B = drawn(logits_BV.double(), sampling=params(), seed_B=seed_B, position_B=seed_B)
    torch.testing.assert_close(rounded_B, exact_B.float(), rtol=0, atol=1e-6)


def test_a_draw_is_the_inverse_cdf_of_its_uniform_number() -> None:
    logits_BV = logits(200, 13, dtype=torch.float64)
    seed_B, position_B = torch.arange(200) * 7919, torch.arange(200) % 31
    token_B, _ = drawn(logits_BV, sampling=params(), seed_B=seed_B, position_B=position_B)
    for row, token, u in zip(
        logits_BV.tolist(), token_B.tolist(), uniform(seed_B, position_B).tolist(), strict=True
    ):
        probabilities = softmax(row, 1.0)
        assert math.fsum(probabilities[:token]) <= u < math.fsum(probabilities[: token + 1])


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_a_draw_does_not_depend_on_its_neighbours(top_p: float) -> None:
    logits_BV, seed_B = logits(64, 100), torch.arange(64)
    together_B, log_prob_B = drawn(
        logits_BV, sampling=params(top_p=top_p), seed_B=seed_B, position_B=seed_B + 3
    )
    for row in (0, 5, 63):
        one = slice(row, row + 1)
        alone_B, alone_log_prob_B = drawn(
            logits_BV[one], sampling=params(top_p=top_p), seed_B=seed_B[one], position_B=seed_B[one] + 3
        )
        assert alone_B.equal(together_B[one])
        assert alone_log_prob_B.equal(log_prob_B[one])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padded_columns_have_no_probability(temperature: float) -> None:
    logits_BV = logits(100, 10)
    padded_BV = torch.cat([logits_BV, torch.full((100, 6), 50.0)], dim=1)
    seed_B = torch.arange(100)
    sampling = params(temperature=temperature)
    expected = drawn(logits_BV, sampling=sampling, seed_B=seed_B, position_B=seed_B)
    got = drawn(padded_BV, sampling=sampling, seed_B=seed_B, position_B=seed_B, vocab_size=10)
    assert got[0].equal(expected[0])
    assert got[1].equal(expected[1])


def brute_nucleus(weights: list[float], top_p: float) -> set[int]:
    """By definition: take tokens of largest weight, lower id first, until their share reaches top_p."""
    taken: list[int] = []
    for token in sorted(range(len(weights)), key=lambda token: (-weights[token], token)):
        taken.append(token)
        if math.fsum(weights[t] for t in taken) >= top_p * math.fsum(weights):
            break
    return set(taken)


@pytest.mark.parametrize("top_p", [1e-300, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_fewest_most_probable_tokens(top_p: float) -> None:
    weight_BV = logits(40, 17, dtype=torch.float64).softmax(dim=-1)
    weight_BV[::4] = weight_BV[::4].mul(20).round().add(1)  # rows with many equal weights
    inside_BV = nucleus(weight_BV, top_p)
    for weights, inside in zip(weight_BV.tolist(), inside_BV.tolist(), strict=True):
        assert {token for token, is_in in enumerate(inside) if is_in} == brute_nucleus(weights, top_p)


def test_of_equal_tokens_top_p_keeps_the_lower_ids() -> None:
    assert set(draw_many([0.0] * 4, 2000, params(top_p=0.5))) == {0, 1}
    assert set(draw_many([0.0] * 4, 2000, params(top_p=0.51))) == {0, 1, 2}


def test_top_p_draws_from_exactly_its_nucleus_in_proportion() -> None:
    tokens = draw_many(ROW, 20_000, params(top_p=0.7, temperature=0.8))
    probabilities = softmax(ROW, 0.8)
    kept = sorted(brute_nucleus(probabilities, 0.7))
    assert sorted(set(tokens)) == kept == [2, 5, 7]
    share = [probabilities[token] / math.fsum(probabilities[t] for t in kept) for token in kept]
    # 0.999 quantile with 2 degrees of freedom.
    assert chi_square([kept.index(token) for token in tokens], share) < 13.8


def test_top_p_that_keeps_everything_draws_what_no_top_p_draws() -> None:
    assert draw_many(ROW, 500, params(top_p=1 - 1e-12)) == draw_many(ROW, 500, params())


def test_a_token_without_probability_is_never_drawn() -> None:
    inf = float("inf")
    assert set(draw_many([-inf, 0.0, -inf, 0.0, -inf], 2000, params())) == {1, 3}


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (0.2499, 1), (0.25, 3), (1.0, 3)])
def test_the_inverse_cdf_at_its_edges(number: float, token: int) -> None:
    weight_BV = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    assert invert_cdf(weight_BV, torch.tensor([number], dtype=torch.float64)).tolist() == [token]


def test_temperature_zero_takes_the_first_most_probable_token() -> None:
    logits_BV = torch.tensor([[0.0, 3.0, 1.0, 3.0], [5.0, 0.0, 0.0, 0.0]])
    seed_B = torch.arange(2)
    token_B, log_prob_B = drawn(logits_BV, sampling=params(temperature=0.0), seed_B=seed_B, position_B=seed_B)
    assert token_B.tolist() == [1, 0]
    for row, token, log_prob in zip(logits_BV.tolist(), token_B.tolist(), log_prob_B.tolist(), strict=True):
        assert log_prob == pytest.approx(math.log(softmax(row, 1.0)[token]), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_a_row_that_is_no_distribution_has_log_prob_nan_and_harms_no_other(
    temperature: float, top_p: float
) -> None:
    logits_BV = logits(5, 6)
    seed_B = torch.arange(5)
    sampling = params(temperature=temperature, top_p=top_p)
    clean_B, clean_log_prob_B = drawn(logits_BV, sampling=sampling, seed_B=seed_B, position_B=seed_B)
    logits_BV[1, 2], logits_BV[2, 0], logits_BV[3] = float("nan"), float("inf"), -float("inf")
    token_B, log_prob_B = drawn(logits_BV, sampling=sampling, seed_B=seed_B, position_B=seed_B)
    assert log_prob_B.isnan().tolist() == [False, True, True, True, False]
    assert ((token_B >= 0) & (token_B < 6)).all()
    assert token_B[[0, 4]].equal(clean_B[[0, 4]])
    assert log_prob_B[[0, 4]].equal(clean_log_prob_B[[0, 4]])


@pytest.mark.parametrize(
    ("sampling", "error", "message"),
    [
        (SamplingParams(max_new_tokens=0), ConfigError, "max_new_tokens must be 1 or more, got 0"),
        (params(temperature=-0.1), ConfigError, "temperature must be 0"),
        (params(temperature=float("nan")), ConfigError, "temperature must be 0"),
        (params(top_p=0.0), ConfigError, r"top_p must lie in \(0, 1\], got 0.0"),
        (params(top_p=1.1), ConfigError, r"top_p must lie in \(0, 1\], got 1.1"),
        (
            SamplingParams(max_new_tokens=1, stop_token_ids=(3, 64)),
            ModelError,
            "stop token 64 lies outside the model's vocabulary of 64",
        ),
    ],
)
def test_impossible_sampling_is_refused(sampling: SamplingParams, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        require_sampling(sampling, vocab_size=64)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((), "prompt 'a/1' has no tokens"),
        ((1, 64, 2), "prompt 'a/1' holds token 64, outside the model's vocabulary of 64"),
        ((1, -1, 2), "prompt 'a/1' holds token -1"),
        ((1, 2, 3), "prompt 'a/1' has 3 tokens; with max_new_tokens = 8 it exceeds .* context of 10"),
    ],
)
def test_a_prompt_the_model_cannot_continue_is_refused_by_name(tokens: tuple[int, ...], message: str) -> None:
    fine = RolloutRequest(index=0, prompt=Prompt(id="a/0", tokens=(0, 63), text="", answer=""), seeds=(1,))
    bad = RolloutRequest(index=1, prompt=Prompt(id="a/1", tokens=tokens, text="", answer=""), seeds=(1,))
    require_prompts([fine], max_new_tokens=8, vocab_size=64, context_length=10)
    with pytest.raises(DataError, match=message):
        require_prompts([fine, bad], max_new_tokens=8, vocab_size=64, context_length=10)


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_the_most_probable_tokens_come_highest_first_with_their_log_probs(count: int) -> None:
    logits_BV = logits(6, 12)
    seed_B = torch.arange(6)
    sampling = params(temperature=0.7, top_log_probs=count)
    result = draw(logits_BV, sampling=sampling, uniform_B=uniform(seed_B, seed_B))
    expected_BV = (logits_BV.double() / 0.7).log_softmax(-1)
    order_BV = expected_BV.argsort(dim=-1, descending=True)[:, :count]
    assert result.top_token_BK.tolist() == order_BV.tolist()
    torch.testing.assert_close(
        result.top_log_prob_BK.double(), expected_BV.gather(1, order_BV), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("count", [-1, 13])
def test_more_top_tokens_than_the_vocabulary_has_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="top_log_probs must lie between 0 and the vocabulary of 12"):
        require_sampling(params(top_log_probs=count), vocab_size=12)
