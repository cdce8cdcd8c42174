"""The search: its best is the best of all, what does not fit is told, and its words start a run."""

from __future__ import annotations

import json

import pytest

from megaent.cli import main
from megaent.errors import ConfigError
from megaent.plan.candidates import Found
from megaent.plan.machine import GIB
from megaent.plan.question import read_question
from megaent.plan.search import Search

STEP = ["model=qwen2_5_7b", "cluster=h100", "max_new_tokens=4096", "response_tokens=1500"]
TRAIN = ["model=llama3_8b", "workload=train", "cluster=h100", "gpus=8", "seq_len=8192", "global_batch=128"]


def found(words: list[str]) -> Found:
    return Search(read_question(words)).run()


def test_no_layout_that_is_given_is_faster_than_the_best_of_the_search() -> None:
    best = found([*STEP, "nodes=2"]).candidates[0]
    for tp in (1, 2, 4):
        for pp in (1, 2, 4):
            try:
                other = found([*STEP, "nodes=2", f"tp={tp}", f"pp={pp}"]).candidates[0]
            except ConfigError:
                continue
            assert best.seconds <= other.seconds * 1.0051  # the plainest of those within half a per cent


def test_expert_ranks_are_searched_too() -> None:
    words = ["model=qwen3_30b_a3b", "cluster=h100", "nodes=2", "pp=1", "cp=1", "max_new_tokens=4096"]
    words.append("response_tokens=1500")
    best = found(words).candidates[0]
    others = [found([*words, f"ep={ep}"]).candidates[0] for ep in (8, 16)]
    assert best.seconds <= min(other.seconds for other in others) * 1.0051
    assert best.layout in [other.layout for other in others]
    with pytest.raises(ConfigError, match=r"EP4 DP16 .* lacks .* GiB a card"):
        found([*words, "ep=4"])
    with pytest.raises(ConfigError, match="ep=3 does not divide the 128 experts"):
        found([*words, "tp=1", "ep=3"])


def test_everything_that_is_shown_fits_and_divides() -> None:
    search = Search(read_question([*STEP, "nodes=4", "staleness=1"]))
    result = search.run()
    for one in result.candidates:
        assert one.memory.total <= search.cluster.memory_gib * GIB
        assert one.engines is not None
        assert one.layout.cards + one.engines.cards == 32
        assert one.microbatch_tokens >= 256 + 4096
    for one in result.refused:
        assert one.memory.total > search.cluster.memory_gib * GIB


def test_servers_on_the_trainers_cards_are_those_of_the_first_stage() -> None:
    result = found([*STEP, "nodes=2", "pp=2"])
    shared = [one for one in result.candidates if one.colocated]
    assert shared
    for one in shared:
        assert one.engines is not None
        assert one.engines.cards == one.layout.cards // 2


def test_generation_ahead_takes_as_long_as_the_slower_of_both() -> None:
    step = found([*STEP, "nodes=4", "staleness=1"]).candidates[0].step
    assert step is not None
    assert step.total == pytest.approx(max(step.generation, step.trained.total) + step.publication)


def test_what_does_not_fit_names_the_nearest_what_it_lacks_and_how_many_cards_would_do() -> None:
    words = ["model=llama3_70b", "cluster=a100_40", "nodes=2"]
    with pytest.raises(ConfigError, match=r"lacks \d+\.\d GiB a card .* it fits (\d+) cards") as refusal:
        found(words)
    cards = str(refusal.value).rsplit("it fits ", 1)[1].split()[0]
    assert found(["model=llama3_70b", "cluster=a100_40", f"gpus={cards}"]).candidates


def test_a_layout_of_training_that_is_given_whole_is_planned_though_it_does_not_fit() -> None:
    words = [*TRAIN, "tp=1", "pp=1", "cp=1", "micro_batch=4", "recompute=none"]
    best = found(words).candidates[0]
    assert best.lacks > 0
    assert best.seconds > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*STEP, "nodes=1", "tp=3"], "no layout of 8 cards divides"),
        ([*STEP, "nodes=3", "tp=3", "pp=1", "cp=1"], "=3 does not divide the model's 28 attention heads"),
        ([*STEP, "gpus=12", "tp=4", "pp=3", "cp=1"], "3 stages must divide the model's 28 layers"),
        ([*STEP, "nodes=1", "engine_gpus=8"], "leaves none of 8 cards to train on"),
        ([*STEP, "nodes=1", "microbatch_tokens=1000"], "cannot hold a prompt and the longest answer"),
        ([*STEP, "nodes=1", "precision=fp8"], "precision=fp8 needs workload=train"),
        ([*TRAIN, "precision=fp8", "cluster=a100_80"], "given twice"),
        (["model=llama3_405b", "cluster=a100_80", "nodes=8"], "lacks 27.* GiB a card for the weights"),
        ([*TRAIN, "micro_batch=3"], "no layout of 8 cards divides"),
        ([*TRAIN, "ep=2", "tp=1", "pp=1", "cp=1"], "needs a model with experts"),
    ],
)
def test_what_contradicts_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        found(words)


def test_json_has_every_part_and_the_parts_make_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *STEP, "nodes=2", "price=2.5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    best = report["candidates"][0]
    memory, step, update = best["memory_bytes"], best["step"], best["update_seconds"]
    parts = [value for name, value in memory.items() if name not in ("total", "allocated", "states")]
    assert sum(parts) == pytest.approx(memory["total"])
    assert sum(value for name, value in update.items() if name != "total") == pytest.approx(update["total"])
    assert step["generation"] + step["score"] + step["reference"] + step["update"] + step[
        "publication"
    ] == pytest.approx(best["step_seconds"])
    assert best["cost_a_step"] == pytest.approx(16 * best["step_seconds"] / 3600 * 2.5)
    for constant in report["constants"].values():
        assert constant["low"] <= constant["value"] <= constant["high"]
        assert constant["source"]


def test_the_words_of_a_plan_compose_and_say_what_was_planned(capsys: pytest.CaptureFixture[str]) -> None:
    from megaent.config.composition import compose_config

    for more in (["nodes=2", "staleness=1"], ["nodes=2"], ["nodes=2", "pp=4", "vpp=7", "cp=1"]):
        assert main(["plan", *STEP, *more, "--check", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        layout = report["candidates"][0]["layout"]
        config, _ = compose_config([*report["overrides"], "data.path=questions.jsonl"])
        sizes = config.parallel.sizes
        assert (sizes.tp, sizes.pp, sizes.vpp or 1, sizes.cp) == tuple(
            layout[name] for name in ("tp", "pp", "vpp", "cp")
        )
        assert config.model.recompute.granularity == layout["recompute"]
        assert config.rollout.prompts_per_step * config.rollout.group_size == 2048


def test_a_model_that_megaent_does_not_train_is_planned_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "model=qwen3_30b_a3b", "cluster=h100", "nodes=8", "pp=1", "cp=1", "max_new_tokens=4096"]
    words.append("response_tokens=1500")
    assert main(words) == 0
    assert "qwen3_30b_a3b has experts" in capsys.readouterr().out
    assert main([*words, "--check"]) == 2


@pytest.mark.parametrize("word", ["lora=true", "stack=eager", "head=logits", "states=bf16", "sharding=full"])
def test_what_megaent_does_not_do_is_planned_and_not_started(word: str) -> None:
    assert main(["plan", *STEP, "nodes=1", "tp=2", "pp=1", "cp=1", word]) == 0
    assert main(["plan", *STEP, "nodes=1", "tp=2", "pp=1", "cp=1", word, "--check"]) == 2


def test_a_text_plan_shows_parts_runner_up_and_expected_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *STEP, "nodes=2"]) == 0
    text = capsys.readouterr().out
    for part in ("optimizer", "generate: decode", "matrix", "the runner-up takes", "expected error"):
        assert part in text
    assert max(map(len, text.splitlines())) < 140
