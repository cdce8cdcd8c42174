"""``model.dtype=auto``: measured once, said, written down; the words that name a dtype stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import yaml

from megaent.config.composition import compose_config
from megaent.config.fastest_dtype import faster, product_seconds, require_named_dtype, settle_dtype
from megaent.errors import ConfigError

WORDS = ["experiment=demo", "device=cpu"]


def settled(words: list[str], *, float32: float, bfloat16: float) -> tuple[str, str, list[str], list[str]]:
    """The dtype of the configuration and of its YAML, the overrides, and what was said."""
    told: list[str] = []

    def measure(names: Sequence[str]) -> dict[str, float]:
        return {name: {"float32": float32, "bfloat16": bfloat16}[name] for name in names}

    config, text = compose_config(words)
    config, text, overrides = settle_dtype(config, text, words, say=told.append, measure=measure)
    return config.model.dtype, yaml.safe_load(text)["model"]["dtype"], overrides, told


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [(0.002, 0.001, "bfloat16"), (0.001, 0.002, "float32"), (0.001, 0.001, "float32")],
)
def test_the_faster_one_is_taken_and_said_in_a_line(float32: float, bfloat16: float, expected: str) -> None:
    words = [*WORDS, "model.dtype=auto", "steps=3"]
    dtype, written, overrides, told = settled(words, float32=float32, bfloat16=bfloat16)
    assert dtype == written == expected
    assert overrides == [*WORDS, "steps=3", f"model.dtype={expected}"]
    assert told == [
        f"model.dtype=auto is {expected} here: a matrix product takes float32 {1e3 * float32:.1f} ms, "
        f"bfloat16 {1e3 * bfloat16:.1f} ms"
    ]
    # What is written down is composed again without a measurement, as a resumed run does it.
    again, text = compose_config(overrides)
    assert again.model.dtype == expected == yaml.safe_load(text)["model"]["dtype"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_dtype_that_is_named_is_not_measured(dtype: str) -> None:
    words = [*WORDS, f"model.dtype={dtype}"]
    nothing = float("nan")
    assert settled(words, float32=nothing, bfloat16=nothing) == (dtype, dtype, words, [])


def test_products_are_measured_in_seconds() -> None:
    """Each of 2 n^3 operations: between a hundredth of a GFLOP/s and a thousand TFLOP/s."""
    found = product_seconds(("float32", "bfloat16"))
    assert found.keys() == {"float32", "bfloat16"}
    assert all(2 * 256**3 / 1e15 < seconds < 2 * 256**3 / 1e7 for seconds in found.values())
    assert faster(found) in found


def test_a_gpu_needs_a_named_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config, text = compose_config(["experiment=demo", "device=auto", "model.dtype=auto"])
    with pytest.raises(ConfigError, match=r"on a GPU give model\.dtype=bfloat16 or model\.dtype=float32"):
        settle_dtype(config, text, [], say=print)


def test_what_is_compared_needs_a_named_dtype() -> None:
    config, _ = compose_config([*WORDS, "model.dtype=auto"])
    with pytest.raises(ConfigError, match=r"a sweep needs model\.dtype=float32, bfloat16 or float64"):
        require_named_dtype(config, "a sweep")
    require_named_dtype(compose_config(WORDS)[0], "a sweep")
