"""What tells one run from another: models, data and methods that differ in a single place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from megaent.config.composition import compose_config
from megaent.errors import CheckpointError
from megaent.run.identity import fingerprint, identity_of, require_same
from megaent.types import Prompt

PROMPTS = tuple(Prompt(id=f"p{i}", tokens=(i,), text=f"what is {i}?", answer=str(i)) for i in range(4))


def model(folder: Path, *, scale: float = 1.0, config: str = "{}") -> Path:
    """1 MB in one file; every weight depends on ``scale``, as after a step of training."""
    folder.mkdir()
    (folder / "config.json").write_text(config)
    save_file({"weight": scale * torch.arange(2**18, dtype=torch.float32)}, folder / "model.safetensors")
    return folder


def test_a_fingerprint_follows_the_weights_and_the_configuration(tmp_path: Path) -> None:
    one = fingerprint(model(tmp_path / "one"))
    assert fingerprint(model(tmp_path / "copy")) == one
    assert fingerprint(model(tmp_path / "trained", scale=1.001)) != one
    assert fingerprint(model(tmp_path / "other", config='{"rope_theta": 1}')) != one


OTHERS = {
    "model.dtype=bfloat16": "dtype",
    "seed=1": "seed",
    "data.seed=1": "data.seed",
    "method=dapo": "method",
    "method.grpo.clip_high=0.3": "method",
}


@pytest.mark.parametrize("word", OTHERS)
def test_what_differs_is_named(tmp_path: Path, word: str) -> None:
    folder = model(tmp_path / "model")
    then = identity_of(compose_config(["experiment=demo"])[0], folder, PROMPTS)
    now = identity_of(compose_config(["experiment=demo", word])[0], folder, PROMPTS)
    require_same(tmp_path, then, dict(then), changed=())
    with pytest.raises(CheckpointError, match=rf"another run: its {OTHERS[word]} was .+, here it is "):
        require_same(tmp_path, then, now, changed=())
    require_same(tmp_path, then, now, changed=[OTHERS[word]])


def test_a_long_difference_is_shown_where_it_is(tmp_path: Path) -> None:
    long = "x" * 500
    with pytest.raises(
        CheckpointError, match=r"was …x{23}high=0\.2x{29}…, here it is …x{23}high=0\.3"
    ) as error:
        require_same(
            tmp_path,
            {"method": f"{long}high=0.2{long}"},
            {"method": f"{long}high=0.3{long}"},
            changed=(),
        )
    assert "repeat its options in the command" in str(error.value)


def test_data_are_what_is_asked_in_any_order_and_any_writing(tmp_path: Path) -> None:
    folder, config = model(tmp_path / "model"), compose_config(["experiment=demo"])[0]

    def data(*prompts: Prompt) -> str:
        return identity_of(config, folder, prompts)["data"]

    same = data(*PROMPTS)
    assert same.startswith("4 prompts, ")
    assert data(*PROMPTS[::-1]) == same

    def with_first(**change: Any) -> str:
        return data(*PROMPTS[1:], replace(PROMPTS[0], **change))

    assert with_first(text="of another day", tokens=(9,)) == same
    assert len({same, data(*PROMPTS[1:]), with_first(answer="7"), with_first(id="q")}) == 4
