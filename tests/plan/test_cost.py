"""Parts of a plan against hand computation: memory by the papers' formulas, exchanges, decoding, lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from megaent.errors import ConfigError
from megaent.plan.cluster import find_cluster
from megaent.plan.constants import Constants
from megaent.plan.generation import Engines, decode_seconds, generate_seconds, token_bytes
from megaent.plan.layout import Layout
from megaent.plan.lengths import Lengths
from megaent.plan.machine import GIB, Machine
from megaent.plan.memory import activation_bytes, train_memory
from megaent.plan.shapes import SHAPES
from megaent.plan.step import file_seconds
from megaent.plan.training import forward_seconds, train_seconds
from megaent.plan.work import Work

H100 = Machine(find_cluster("h100"), Constants())
GPT = SHAPES["gpt_22b"]
GPT_WORK = Work(tokens=4 * 2048, context=2048, microbatches=1, attention="unfused", precision="fp16")


def korthikanti(*, tensor: int, sequence_parallel: bool, selective: bool) -> float:
    """2205.05198, table 2: bytes of a layer, s b h (10 + 24/t + 5as/ht), without the embedding's output."""
    width, length, batch = GPT.hidden, 2048, 4
    scores = 0 if selective else 5 * GPT.heads * length / width
    if sequence_parallel:
        return length * batch * width / tensor * (34 + scores)
    return length * batch * width * (10 + 24 / tensor + scores / tensor)


@pytest.mark.parametrize("sequence_parallel", [True, False])
@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_activations_of_a_gpt_follow_the_papers_formula(sequence_parallel: bool, recompute: str) -> None:
    layout = Layout(tp=8, sequence_parallel=sequence_parallel, recompute=recompute)
    layer = korthikanti(tensor=8, sequence_parallel=sequence_parallel, selective=recompute == "selective")
    embedding = 2 * 4 * 2048 * GPT.hidden / (8 if sequence_parallel else 1)
    found = activation_bytes(Constants(), GPT, layout, GPT_WORK)
    assert found == pytest.approx(GPT.layers * layer + embedding)


def test_the_fullest_stage_of_a_pipeline_is_the_first_and_keeps_a_microbatch_for_each_stage() -> None:
    work = Work(tokens=8192, context=8192, microbatches=64)
    one = activation_bytes(Constants(), SHAPES["llama3_70b"], Layout(tp=8), work)
    layout = Layout(tp=8, pp=8)
    first = activation_bytes(Constants(), SHAPES["llama3_70b"], layout, work, 0)
    last = activation_bytes(Constants(), SHAPES["llama3_70b"], layout, work, 7)
    assert first == pytest.approx(one)
    assert last == pytest.approx((one - 2 * 8192 * 8192) / 8)
    few = replace(work, microbatches=2)
    assert activation_bytes(Constants(), SHAPES["llama3_70b"], layout, few, 0) < first / 3


def test_states_take_eighteen_bytes_a_parameter_and_six_where_the_optimizer_is_sharded() -> None:
    shape, work = SHAPES["llama3_8b"], Work(tokens=1, context=1, microbatches=1)
    whole = train_memory(Constants(), shape, Layout(dp=64), work)
    sharded = train_memory(Constants(), shape, Layout(dp=64, sharding="optimizer"), work)
    count = shape.parameters
    assert whole.states == pytest.approx(18 * count, rel=1e-3)
    assert sharded.states == pytest.approx((6 + 12 / 64) * count, rel=1e-3)


def test_experts_share_their_state_among_fewer_ranks_than_the_rest() -> None:
    """Of 64 cards with EP8 under TP2 and CP2, 8 hold the same experts and 32 the same part of the rest."""
    shape, work = SHAPES["qwen3_30b_a3b"], Work(tokens=1, context=1, microbatches=1)
    layout = Layout(tp=2, cp=2, ep=8, dp=16, sequence_parallel=True, sharding="optimizer")
    experts = 48 * 128 * 3 * 2048 * 768
    whole = 48 * (2 * 2048 + 2 * 128 + 2048 * 128) + 2048  # norms and routers
    rest = (shape.parameters - experts - whole) / 2 + whole
    found = train_memory(Constants(), shape, layout, work)
    assert found.weights == pytest.approx(2 * (experts / 8 + rest), rel=1e-3)
    assert found.optimizer == pytest.approx(12 * (experts / 8 / 8 + rest / 32), rel=1e-3)


def test_tokens_go_to_their_experts_and_back_in_both_directions() -> None:
    shape, work = SHAPES["mixtral_8x7b"], Work(tokens=8192, context=8192, microbatches=3)
    alone, shared = (train_seconds(H100, shape, Layout(ep=ep, dp=8, recompute="full"), work) for ep in (1, 8))
    sent = 2 * 8192 * 2 * 4096 * 7 / 8  # two bytes, two experts a token, seven in eight leave the card
    once = sent / (450e9 * H100.constants.link_share) + H100.constants.link_latency_s
    assert alone.expert_parallel == 0
    assert shared.expert_parallel == pytest.approx(3 * 32 * 4 * once)
    products = (shared.matrix - alone.matrix) / 3  # of one forward: an expert sees other numbers of tokens
    assert shared.recompute - alone.recompute - products == pytest.approx(3 * 32 * 2 * once)


def test_an_exchange_inside_a_node_and_between_nodes() -> None:
    constants, cluster = H100.constants, H100.cluster
    inside = H100.all_gather(1e9, 8)
    assert inside == pytest.approx(
        1e9 * 7 / 8 / (450e9 * constants.link_share) + 3 * constants.link_latency_s
    )
    # One rank of each node uses one adapter; eight of each use eight, and then the link is the limit.
    alone = H100.all_gather(1e9, 4, inner=8)
    assert alone == pytest.approx(
        1e9 * 3 / 4 / (50e9 * constants.network_share) + 2 * constants.network_latency_s
    )
    together = H100.all_gather(1e9, 32)
    rate = min(cluster.link_gbps * 1e9 * constants.link_share, 8 * 50e9 * constants.network_share)
    assert together == pytest.approx(1e9 * 31 / 32 / rate + 5 * constants.network_latency_s)
    assert H100.all_gather(1e9, 1) == 0.0


def test_a_decode_step_reads_weights_and_cache_once() -> None:
    shape = SHAPES["qwen2_5_7b"]
    constants = Constants(decode_memory_share=1.0, decode_overhead_s=0.0)
    machine = Machine(H100.cluster, constants)
    assert token_bytes(shape) == 2 * 2 * 28 * 4 * 128
    read = 2 * (shape.parameters - shape.vocab * shape.hidden) + 16 * 1000 * token_bytes(shape)
    assert decode_seconds(machine, shape, 1, 16, 1000) == pytest.approx(read / 3350e9, rel=1e-3)


def test_few_requests_touch_few_experts_and_many_touch_all() -> None:
    shape = SHAPES["qwen3_30b_a3b"]
    machine = Machine(H100.cluster, Constants(decode_overhead_s=0.0, expert_share=1.0))
    dense = replace(shape, experts=0, experts_per_token=0, ffn=8 * shape.ffn)
    assert decode_seconds(machine, shape, 1, 1, 0) == pytest.approx(decode_seconds(machine, dense, 1, 1, 0))
    assert decode_seconds(machine, shape, 1, 512, 0) > 5 * decode_seconds(machine, shape, 1, 1, 0)


def test_experts_are_read_at_their_share_of_the_rate() -> None:
    shape = SHAPES["mixtral_8x7b"]
    slow, fast = (
        Machine(H100.cluster, Constants(decode_memory_share=1.0, expert_share=share)) for share in (0.5, 1.0)
    )
    more = decode_seconds(slow, shape, 4, 64, 0) - decode_seconds(fast, shape, 4, 64, 0)
    touched = 8 * (1 - 0.75**64)
    assert more == pytest.approx(2 * 32 * touched * 3 * 4096 * 14336 / 4 / 3350e9)


def test_an_engine_in_fp8_reads_half_the_weights_and_the_same_cache() -> None:
    shape = SHAPES["qwen2_5_7b"]
    machine = Machine(H100.cluster, Constants(decode_memory_share=1.0))
    less = decode_seconds(machine, shape, 1, 16, 1000) - decode_seconds(
        machine, shape, 1, 16, 1000, weight_bytes=1
    )
    weights = shape.layers * (shape.attention_matrices + shape.expert_matrices) + shape.hidden * shape.vocab
    assert less == pytest.approx(weights / 3350e9)
    half, whole = (Engines(cards=1, tp=1, memory=60 * GIB, weight_bytes=size) for size in (1, 2))
    assert half.cached_tokens(shape) - whole.cached_tokens(shape) == pytest.approx(
        shape.parameters / token_bytes(shape)
    )


def test_scoring_writes_and_reads_logits_where_they_exist() -> None:
    shape, layout = SHAPES["qwen2_5_7b"], Layout(tp=2, sequence_parallel=True)
    kept, tiled = (
        forward_seconds(H100, shape, layout, Work(tokens=4096, context=4096, microbatches=1, head=head))
        for head in ("logits", "fused")
    )
    moved = 4096 * shape.padded_vocab / 2 * H100.constants.head_bytes / 2
    assert kept - tiled == pytest.approx(H100.traffic(moved))


def test_weights_in_a_file_are_written_by_one_process() -> None:
    machine = Machine(H100.cluster, Constants(file_gbps=2.0))
    assert file_seconds(machine, SHAPES["qwen3_4b"]) == pytest.approx(SHAPES["qwen3_4b"].parameters / 1e9)


def test_lengths_agree_with_draws() -> None:
    lengths = Lengths(mean=3000.0, longest=8192, spread=0.9)
    sigma = np.sqrt(np.log(1 + 0.9**2))
    draws = np.minimum(np.exp(lengths._mu + sigma * np.random.default_rng(0).standard_normal(400_000)), 8192)
    assert draws.mean() == pytest.approx(3000, rel=0.01)
    assert lengths.mean_square == pytest.approx((draws**2).mean(), rel=0.01)
    assert lengths.longer_than(5000) == pytest.approx((draws > 5000).mean(), abs=0.004)
    packed = draws + 100
    assert lengths.context(100) == pytest.approx((packed**2).mean() / packed.mean(), rel=0.01)


def test_the_longest_of_many_is_longer_and_never_above_the_limit() -> None:
    lengths = Lengths(mean=1000.0, longest=16384, spread=0.5)
    sigma = np.sqrt(np.log(1 + 0.5**2))
    draws = np.exp(lengths._mu + sigma * np.random.default_rng(1).standard_normal((4000, 64)))
    assert lengths.longest_of(64) == pytest.approx(np.median(draws.max(axis=1)), rel=0.02)
    assert lengths.longest_of(1e9) <= 16384
    with pytest.raises(ConfigError, match="must lie between 0 and max_new_tokens"):
        Lengths(mean=9000.0, longest=8192, spread=0.8)


def test_generation_with_equal_lengths_is_as_many_steps_as_tokens() -> None:
    shape = SHAPES["qwen2_5_7b"]
    lengths = Lengths(mean=999.0, longest=1001, spread=1e-3)
    engines = Engines(cards=8, tp=1, memory=60 * GIB)
    found = generate_seconds(H100, shape, engines, lengths, prompts=8, group=4, prompt=100)
    step = decode_seconds(H100, shape, 1, 4, 100 + 500)
    assert found.decode + found.tail == pytest.approx(1000 * step, rel=0.02)


def test_an_engine_that_cannot_hold_the_weights_says_what_it_lacks() -> None:
    engines = Engines(cards=8, tp=1, memory=60 * GIB)
    with pytest.raises(ConfigError, match=r"lacks 1\.0 GiB a card for the weights of qwen2_5_32b"):
        engines.cached_tokens(SHAPES["qwen2_5_32b"])


def test_a_step_takes_longer_with_recomputation_and_the_bubble_is_the_known_share() -> None:
    shape = SHAPES["llama3_8b"]
    work = Work(tokens=8192, context=8192, microbatches=8)
    plain = train_seconds(H100, shape, Layout(), work)
    again = train_seconds(H100, shape, Layout(recompute="full"), work)
    forward = (plain.matrix / 3 + plain.elementwise / 3) + plain.attention / (1 + 2.5 / 0.71)
    assert again.recompute == pytest.approx(forward, rel=0.01)
    # (p - 1) / m of the layers' time, 1/v of that interleaved (2104.04473, section 2.2).
    piped = train_seconds(H100, shape, Layout(pp=4), work)
    interleaved = train_seconds(H100, shape, Layout(pp=4, vpp=2), work)
    layers = piped.matrix + piped.attention + piped.elementwise
    assert piped.pipeline_bubble == pytest.approx(3 / 8 * (layers + piped.head / 4), rel=1e-6)
    assert interleaved.pipeline_bubble == pytest.approx(piped.pipeline_bubble / 2)
