"""SENT: prompts in order of semantic entropy, and certain tokens held in place.

"SENT", arXiv:2512.04359. The training prompts are sorted by the entropy of the starting model's answers to
them (megaent.objective.semantic_entropy) and learnt from in ``stages``; each later stage starts with a
fresh optimizer and the present policy as its reference. On the token level, of each minibatch, T_low is
the ``low_frac`` of tokens of lowest entropy and T_hc the ``cov_ratio`` of T_low of largest
(log pi - mean)(A - mean), means over T_low:

    paper      clipped surrogate + b KL(pi, pi_ref), b = beta_high on T_hc, beta_low on the rest of T_low
    released   -A ratio, not clipped, + beta_high |log pi - log pi_old| on T_hc + beta_low times the same on
               as many tokens of smallest covariance, + ``kl_coef`` KL(pi, pi_ref) on all tokens

Read from the authors' code: low_frac, cov_ratio, the two betas (0.1 times 0.5 and 2.0), two stages and
what is reset between them. Inferred: ``responses`` per prompt for the semantic entropy, and that clusters
are weighed by counts (``weights`` log_prob is the paper's formula, which long responses reduce to the
likeliest one). At this cov_ratio T_hc is nearly empty; 2e-3 to 0.2 are worth a try in the paper's form.

Departures: T_low and T_hc come from the old policy over the minibatch (``scope="mini"``) and not from the
current policy over a microbatch ("micro", as released), so that no result depends on its size. The
released code reads the advantages of the wrong rows through an integer mask; here they are the tokens'
own. The paper averages each response first (``aggregation="response_mean"``), the released code all tokens.
A dual clip bounds the loss of negative advantages (verl's default).
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import aggregation as aggregation_named
from megaent.objective.compose import Part, PhasePart
from megaent.objective.consolidation import HoldExtremes, HoldLowEntropy, LowEntropyCovariance
from megaent.objective.cores import Unclipped, clipped
from megaent.objective.method import Curriculum, Term
from megaent.objective.semantic_entropy import WEIGHTS
from megaent.objective.terms import KL, kl_to_reference

NEUTRAL = ({"beta_low": 0.0, "beta_high": 0.0, "stages": 1}, {"grpo": {}})
"""Options under which the method is another one, bit for bit."""


def sent(
    *,
    form: str = "paper",
    beta_low: float = 0.05,
    beta_high: float = 0.2,
    low_frac: float = 0.8,
    cov_ratio: float = 2e-4,
    cov_mean: str = "low",
    scope: str = "mini",
    anchor: str | None = None,
    kl: str | None = None,
    kl_coef: float | None = None,
    stages: int = 2,
    responses: int = 8,
    weights: str = "count",
    drop_uniform: bool = False,
    reset_reference: bool = True,
    reset_optimizer: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    aggregation: str = "token_mean",
    constant_length: int = 0,
) -> Part:
    """``anchor``, ``kl`` and ``kl_coef`` are by default the form's: ref, k3 and 0, or old, abs and 0.001."""
    if form not in ("paper", "released"):
        raise ValueError(f"form must be paper or released, got {form!r}")
    is_paper = form == "paper"
    chosen = LowEntropyCovariance(low_frac=low_frac, cov_ratio=cov_ratio, mean_over=cov_mean)
    make = HoldLowEntropy if is_paper else HoldExtremes
    coef = make(tokens=chosen, beta_low=beta_low, beta_high=beta_high, scope=scope)
    quantity = KL(
        estimator=kl or ("k3" if is_paper else "abs"), anchor=anchor or ("ref" if is_paper else "old")
    )
    hold = (Term(name="hold_low_entropy", quantity=quantity, coef=coef),) if beta_high else ()
    default_kl_coef = 0.0 if is_paper else 1e-3
    return Part(
        terms=(*hold, *kl_to_reference(default_kl_coef if kl_coef is None else kl_coef)),
        curriculum=_curriculum(stages, responses, weights, drop_uniform),
        phases=_phases(stages, reset_reference, reset_optimizer),
        suggests=Part(
            advantage=GroupRelative(),
            core=clipped(clip_low, clip_high, dual_clip) if is_paper else Unclipped(),
            aggregation=aggregation_named(aggregation, constant_length),
        ),
    )


def _curriculum(stages: int, responses: int, weights: str, drop_uniform: bool) -> Curriculum | None:
    if stages < 1 or responses < 1:
        raise ValueError(f"stages and responses must be 1 or more, got {stages} and {responses}")
    if weights not in WEIGHTS:
        raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")
    if stages == 1:
        return None
    return Curriculum(stages=stages, responses=responses, weights=weights, drop_uniform=drop_uniform)


def _phases(stages: int, reset_reference: bool, reset_optimizer: bool) -> tuple[PhasePart, ...]:
    """One phase a stage, of equal shares of the run; a single stage is no phase."""
    if stages == 1:
        return ()
    return tuple(
        PhasePart(
            name=f"stage {stage + 1}",
            until=(stage + 1) / stages,
            reset_reference=reset_reference and stage > 0,
            reset_optimizer=reset_optimizer and stage > 0,
            stage=stage,
        )
        for stage in range(stages)
    )
