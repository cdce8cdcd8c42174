"""CEEH: compress the easy prompts, explore the hard ones.

"Compress the Easy, Explore the Hard", arXiv:2602.22642. Each prompt x remembers its running accuracy
Acc_h and the shortest correct response L_x so far (megaent.objective.history):

    reward      R - beta (length - L_x) / L_x, the term at least ``floor``    correct, and Acc(x) > Acc_h(x)
                R                                                             otherwise
    Acc_h       (1 - eta) Acc_h + eta Acc, eta = ``ema_up`` if Acc_h < Acc else ``ema_down``    (eq. 16)
    hard        Acc_h(x) below its mean over the training prompts                              (eq. 10)
    advantage   reward - mean of the group

Variant "me" adds ``- lambda(x, t) H`` to the loss, lambda = ``lam0`` times a cosine over the run and times
``hard_mult`` on hard prompts (eq. 11). Variant "ea" adds min(``alpha`` H, |A| / ``kappa``) to the advantages
of hard prompts instead (eq. 12).

Inferred, for want of a word in the paper: beta, alpha and kappa (from Cheng et al., arXiv:2506.14758),
clip_low, the start of Acc_h, the k3 estimator, and that L_x is read before the step (else the term, said to
range over [-0.9, 1), could never be positive); on a first visit L_x is the group's own shortest.

Departures: eq. 11 as printed (``entropy_schedule="literal"``) makes the entropy coefficient negative in the
second half of the run; "half" is the usual cosine decay to 0. H is the entropy of the next-token
distribution and not the mean of -log pi of eq. 6. Whether a response that was cut off can be correct is
the grader's decision. A dual clip bounds the loss of negative advantages (verl's default).
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import aggregation as aggregation_named
from megaent.objective.checks import require
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.difficulty import EntropyByDifficulty, HardPrompts, RecordLength
from megaent.objective.entropy_advantage import EntropyAdvantage
from megaent.objective.method import History, Term
from megaent.objective.terms import NegativeEntropy, kl_to_reference

NEUTRAL = (
    {"beta": 0.0, "lam0": 0.0, "kl_coef": 0.0},
    {"grpo": {"normalize": False, "clip_high": 0.28}},
)
"""Options under which the method is another one, bit for bit: Dr.GRPO's advantage with these clips."""

_STARTS = {"zero": "zero", "first_obs": "first", "prior": "prior"}


def ceeh(
    *,
    variant: str = "me",
    beta: float = 0.1,
    floor: float = -0.9,
    lam0: float = 1e-3,
    hard_mult: float = 5.0,
    entropy_schedule: str = "half",
    alpha: float = 0.4,
    kappa: float = 2.0,
    ema_up: float = 0.2,
    ema_down: float = 0.05,
    init: str = "zero",
    prior: float = 0.5,
    flags: str = "after",
    mean: str = "table",
    kl_coef: float = 1e-3,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 3.0,
    aggregation: str = "token_mean",
    constant_length: int = 0,
) -> Part:
    """``lam0``, ``hard_mult``, ``entropy_schedule`` belong to variant me, ``alpha`` and ``kappa`` to ea."""
    if init not in _STARTS:
        raise ValueError(f"init must be one of {', '.join(_STARTS)}, got {init!r}")
    for option, weight in (("ema_up", ema_up), ("ema_down", ema_down)):
        require(0 <= weight < 1, option, "lie in [0, 1)", weight)
    hard = HardPrompts(flags=flags, mean=mean)
    terms, shaping = _exploration(variant, hard, lam0, hard_mult, entropy_schedule, alpha, kappa)
    rewards = (RecordLength(beta=beta, floor=floor),) if beta else ()
    is_remembered = bool(rewards or terms or shaping)
    history = History(up=ema_up, down=ema_down, start=_STARTS[init], prior=prior)
    return Part(
        rewards=rewards,
        shaping=shaping,
        terms=(*terms, *kl_to_reference(kl_coef)),
        history=history if is_remembered else None,
        suggests=Part(
            advantage=GroupRelative(normalize=False),
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=aggregation_named(aggregation, constant_length),
        ),
    )


def _exploration(
    variant: str,
    hard: HardPrompts,
    lam0: float,
    hard_mult: float,
    schedule: str,
    alpha: float,
    kappa: float,
) -> tuple[tuple[Term, ...], tuple[EntropyAdvantage, ...]]:
    """The variant's loss terms and shaping; nothing for a coefficient of 0."""
    if variant == "me":
        coef = EntropyByDifficulty(start=lam0, hard_mult=hard_mult, schedule=schedule, hard=hard)
        term = Term(name="entropy_by_difficulty", quantity=NegativeEntropy(), coef=coef)
        return ((term,) if lam0 else ()), ()
    if variant == "ea":
        shape = EntropyAdvantage(alpha=alpha, kappa=kappa, where=hard)
        return (), ((shape,) if alpha else ())
    raise ValueError(f"variant must be me (entropy in the loss) or ea (in the advantage), got {variant!r}")
