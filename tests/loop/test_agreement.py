"""A difference between servers and actor is found, named, and above the limit it ends the run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from megaent.actor.tiny_actor import TinyActor
from megaent.errors import NumericsError
from megaent.loop.agreement import Agreement, require_same_log_probs

TOKENS = (3, 1, 4, 1, 5)


class Servers:
    """Two that compute what a bigram model of ``logits_VV`` does, the second ``off`` nats beside it."""

    def __init__(self, logits_VV: torch.Tensor, *, off: float) -> None:
        log_p_VV = logits_VV.double().log_softmax(1)
        self._right = [float(log_p_VV[a, b]) for a, b in itertools.pairwise(TOKENS)]
        self._off = off

    def log_probs(self, tokens: Sequence[int]) -> dict[str, list[float]]:
        assert tuple(tokens) == TOKENS
        return {"one": self._right, "two": [self._right[0] + self._off, *self._right[1:]]}


@pytest.fixture
def make_agreement() -> Callable[..., Agreement]:
    """Of an actor whose bigram logits are not uniform."""

    def make(*, off: float, every: int = 1) -> Agreement:
        actor = TinyActor(8, lr=0.1)
        logits_VV = dict(actor.named_weights())["bigram.weight"]
        with torch.no_grad():
            logits_VV.copy_(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))
        servers = Servers(logits_VV, off=off)
        return Agreement(actor=actor, scorer=servers, tokens=TOKENS, limit=1e-4, every=every)

    return make


def test_the_difference_of_the_worst_server_is_reported(make_agreement: Callable[..., Agreement]) -> None:
    agreement = make_agreement(off=5e-5)
    agreement.ask(1)
    assert agreement.require() == {"sync/log_prob_difference": pytest.approx(5e-5, abs=1e-6)}


def test_a_server_that_computes_something_else_ends_the_run(make_agreement: Callable[..., Agreement]) -> None:
    agreement = make_agreement(off=1e-3)
    agreement.ask(1)
    with pytest.raises(NumericsError, match=r"^two and the trainer disagree .* token 1 .* 1\.00e-03 nats"):
        agreement.require()


def test_only_some_versions_are_checked(make_agreement: Callable[..., Agreement]) -> None:
    agreement = make_agreement(off=1e-3, every=3)
    agreement.ask(2)
    assert agreement.require() == {}
    agreement.ask(3)
    with pytest.raises(NumericsError):
        agreement.require()
    assert agreement.require() == {}, "a question is answered once"


def test_the_largest_difference_is_reported() -> None:
    found = require_same_log_probs([-1.0, -2.0, -3.0], [-1.0, -2.5, -2.75], limit=0.6, server="s")
    assert found == 0.5


def test_above_the_limit_the_token_and_both_values_are_named() -> None:
    with pytest.raises(NumericsError, match=r"token 2 is -2 there and -2\.5 here, 5\.00e-01 nats apart"):
        require_same_log_probs([-1.0, -2.0], [-1.0, -2.5], limit=0.4, server="s")


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_what_is_not_finite_is_a_difference(wrong: float) -> None:
    with pytest.raises(NumericsError, match="token 1 is"):
        require_same_log_probs([wrong, -1.0], [wrong, -1.0], limit=1e9, server="s")


def test_different_numbers_of_tokens_are_a_defect() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        require_same_log_probs([-1.0], [-1.0, -2.0], limit=1.0, server="s")
