"""The fleet that a plan describes, simulated: its engines, its trainer, its lengths."""

from __future__ import annotations

from dataclasses import replace

from megaent.errors import ConfigError
from megaent.plan.candidates import Candidate
from megaent.plan.fleet import Failures, Fleet, LengthSource
from megaent.plan.generation import decode_seconds
from megaent.plan.search import Search


def fleet_of(
    search: Search,
    found: Candidate,
    *,
    lengths: LengthSource | None = None,
    failures: Failures | None = None,
) -> Fleet:
    """``lengths`` of a run in place of the plan's distribution; of ``failures`` the cards are the plan's.

    A prompt's prefill, which a group shares, is not simulated; it takes hundredths of a second.
    Raises ConfigError for a plan of training alone.
    """
    if found.step is None or found.engines is None or search.batch is None:
        raise ConfigError("a fleet generates; workload=train has no engines to simulate")
    batch, engines, shape, machine = search.batch, found.engines, search.shape, search.machine
    room = engines.cached_tokens(shape) / (batch.prompt_tokens + batch.lengths.mean)
    return Fleet(
        engines=engines.count,
        room=max(1, int(room)),
        token_s=lambda responses, context: decode_seconds(
            machine, shape, engines.tp, responses, context, weight_bytes=engines.weight_bytes
        ),
        lengths=lengths or batch.lengths,
        prompts=batch.prompts,
        group=batch.group,
        prompt_tokens=batch.prompt_tokens,
        train_s=found.step.trained.total,
        publish_s=found.step.publication,
        staleness=batch.staleness,
        failures=replace(failures or Failures(), engine_cards=engines.tp, trainer_cards=found.layout.cards),
    )
