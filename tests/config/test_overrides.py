"""Overrides as people type them, against what the run's configuration then holds."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from megaent.actor.recompute import RecomputeOptions
from megaent.config.composition import compose_config
from megaent.config.overrides import as_typed
from megaent.errors import ConfigError

JSONL = ("model.path=m", "data.path=d.jsonl")

SENTENCES = [
    "Put the final answer in \\boxed{}.",
    "Think first, then answer: (a), (b) or (c).",
    "Answer = one number.",
    'It\'s "this" one; 100 % of [them] {all}: a=b',
    "ends with a backslash \\",
    "two\nlines",
    "{}",
    "[",
    "a,b",
    "null and void",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_reaches_the_run_as_it_was_typed(sentence: str) -> None:
    config, text = compose_config([*JSONL, f"data.instruction={sentence}"])
    assert config.data.instruction == sentence
    assert "data:" in text


@pytest.mark.parametrize("name", ["seed=1, n=20 (x).jsonl", "a,b.jsonl", "[x].json", "it's.jsonl", "{1}.csv"])
def test_a_file_name_reaches_the_run_as_it_was_typed(name: str) -> None:
    assert compose_config(["model.path=m", f"data.path=/data/{name}"])[0].data.path == f"/data/{name}"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab ,=(){}[]'\"\\:$%#.\u00e9\n", min_size=1, max_size=20))
def test_any_text_is_read_back(text: str) -> None:
    """Text that is a value of Hydra's grammar keeps its meaning there; all other text is itself."""
    (word,) = as_typed([f"data.instruction={text}"], text_keys={"instruction"})
    if word != f"data.instruction={text}":
        assert compose_config([*JSONL, f"data.instruction={text}"])[0].data.instruction == text


def test_what_hydra_reads_keeps_its_meaning() -> None:
    words = ["method=[less,kl_cov]", "rollout.urls=[http://127.0.0.1:80]", "optim.lr=1e-4", "steps=3"]
    assert as_typed(words, text_keys={"path"}) == words


def test_commas_are_choices_where_a_sweep_was_asked_for() -> None:
    assert as_typed(["data.path=a,b"], text_keys={"path"}, is_sweep=True) == ["data.path=a,b"]


def test_a_word_without_a_value_is_no_override() -> None:
    with pytest.raises(ConfigError, match=r"'steps' is no override; write KEY=VALUE"):
        compose_config(["experiment=demo", "steps"])


@pytest.mark.parametrize(
    "word", ["rollout.temperature=inf", "optim.lr=nan", "method.clip_high=inf", "optim.weight_decay=-inf"]
)
def test_a_number_that_is_not_finite_is_refused_by_its_key(word: str) -> None:
    key = word.partition("=")[0].replace("method.", "method.grpo.")
    with pytest.raises(ConfigError, match=rf"{key} must be (a finite number|0 or more), got"):
        compose_config(["experiment=demo", "method=grpo", word])


def test_a_quoted_value_stays_quoted(tmp_path: Path) -> None:
    assert compose_config([*JSONL, "data.instruction='a, b'"])[0].data.instruction == "a, b"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "model.recompute=true",
            "model.recompute has options of its own and no value; set one of model.recompute.granularity, ",
        ),
        ("optim=3", "optim has options of its own and no value; set one of optim.lr, "),
        (
            "parallel=tensor",
            "parallel has options of its own and no value; set one of parallel.tensor_model_parallel_size, ",
        ),
        ("checkpoint=10", "checkpoint has options of its own and no value; set one of checkpoint.every, "),
    ],
)
def test_a_value_for_a_group_of_options_is_refused_with_their_names(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose_config(["experiment=demo", word])


def test_an_option_within_options_is_known_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean model\.recompute\.granularity"):
        compose_config(["experiment=demo", "model.recompute.granulrity=full"])


def test_a_group_stays_a_list_where_an_option_has_its_name() -> None:
    """``model.recompute.method`` is text; ``method`` is the group."""
    assert "method" in {item.name for item in fields(RecomputeOptions)}
    text = compose_config(["experiment=demo", "method=[kl_cov,less]"])[1]
    assert set(yaml.safe_load(text)["method"]) == {"kl_cov", "less"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr=1e-5", "no configuration key 'lr'; did you mean optim.lr?"),
        (
            "trainer.max_new_tokens=5",
            "no configuration key 'trainer.max_new_tokens'; did you mean rollout.max_new",
        ),
        ("rollout.prompt_per_step=4", "did you mean rollout.prompts_per_step"),
        ("method.clip_hi=0.2", "did you mean method.clip_high"),
        ("+lr=1e-5", "no configuration key 'lr'; did you mean optim.lr?"),
        ("+rollout.n=8", "no configuration key 'rollout.n'"),
        (
            "+optim.weigth_decay=0.1",
            "no configuration key 'optim.weigth_decay'; did you mean optim.weight_decay?",
        ),
        ("--steps=5", "'--steps=5' is no override; write steps=5"),
        ("--steps", "'--steps' is no override; write KEY=VALUE"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_the_whole_name_of_the_nearest(
    word: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose_config(["experiment=demo", word])


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    config, _ = compose_config(["data.path=~/questions.jsonl", "model.path=~/model", "run.dir=~"])
    assert (config.data.path, config.model.path) == ("/somewhere/questions.jsonl", "/somewhere/model")
    assert config.run.dir == "/somewhere"
