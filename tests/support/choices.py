"""Every method as it comes, methods with their other forms switched on, and compositions."""

from __future__ import annotations

from megaent.methods import build_method
from megaent.objective.method import Method, Schedule

Chosen = dict[str, dict[str, object]]

FORMS: dict[str, Chosen] = {
    "grpo with all its terms": {"grpo": {"entropy_coef": 0.01, "kl_coef": 0.1, "clip_high": 0.28}},
    "grpo per response": {"grpo": {"aggregation": "response_mean", "dual_clip": 0.0}},
    "grpo without the deviation": {
        "grpo": {"normalize": False, "aggregation": "constant_length", "constant_length": 64}
    },
    "ceeh by advantage": {"ceeh": {"variant": "ea"}},
    "ceeh clamped, flags before": {
        "ceeh": {"entropy_schedule": "clamped", "flags": "before", "init": "first_obs"}
    },
    "egrc exploring first": {"egrc": {"order": "explore_first", "core": "reinforce", "shape": "cosine"}},
    "sent as released": {"sent": {"form": "released", "cov_ratio": 0.05}},
    "sent to the old policy": {"sent": {"anchor": "old", "kl": "abs", "stages": 1, "cov_ratio": 0.2}},
    "less as released": {"less": {"mode": "released", "min_length": 2}},
    "less with short segments": {"less": {"min_length": 1, "quantile": 0.5}},
    "etr as released": {"etr": {"form": "released"}},
    "etr of the five most probable": {"etr": {"entropy": "top5", "lam": 0.05}},
    "dapo with its overlong penalty": {"dapo": {"max_length": 30, "buffer": 10}},
    "tis by the response": {"tis": {"level": "sequence", "mode": "mask", "limit": 1.5}},
    "steer linear": {"steer": {"form": "linear"}},
    "kl_cov on a fifth": {"kl_cov": {"fraction": 0.2}},
    "siren about an anchor": {"siren": {"anchor": 0.4, "quantile": 0.5}},
    "stare on both sides": {"stare": {"attenuate": 0.9, "target": 2.0, "step": 0.01}},
    "stare above its target": {"stare": {"target": 0.01}},
    "repo with a zeta of its own": {"repo": {"adaptive": False, "zeta": 0.3}},
    "pear on a part": {"pear": {"alpha": 0.5, "score": 0.9, "wrong": 0.1}},
    "forking_tokens with an overlong penalty": {"forking_tokens": {"max_length": 30, "buffer": 10}},
    "adaptive_entropy between bounds": {
        "adaptive_entropy": {"low": 1e-3, "high": 2e-3, "start_coef": 1.5e-3, "delta": 1e-3}
    },
    "clip_cov with many candidates": {"clip_cov": {"fraction": 0.1, "cov_low": 0.0}},
}

# Rules taken in the forward pass, over one microbatch: their results depend on how it is cut, as published.
OF_THE_MICROBATCH: dict[str, Chosen] = {
    "kl_cov of the microbatch": {"kl_cov": {"scope": "micro", "fraction": 0.1}},
    "clip_cov of the microbatch": {"clip_cov": {"scope": "micro", "fraction": 0.1, "cov_low": 0.0}},
    "steer of the microbatch": {"steer": {"scope": "micro"}},
    "sent of the microbatch": {"sent": {"scope": "micro", "cov_ratio": 0.1}},
    "sent as released, of the microbatch": {"sent": {"form": "released", "scope": "micro"}},
}

COMPOSITIONS: dict[str, Chosen] = {
    "less + kl_cov": {"less": {}, "kl_cov": {}},
    "ceeh + less + tis": {"ceeh": {}, "less": {}, "tis": {}},
    "egrc + kl_cov + entropy_bonus": {"egrc": {}, "kl_cov": {}, "entropy_bonus": {}},
    "sent + adaptive_entropy + dapo": {"sent": {}, "adaptive_entropy": {}, "dapo": {}},
    "siren + stare + repo": {"siren": {"anchor": 0.3}, "stare": {"target": 2.0}, "repo": {}},
    "etr + linear_length + rloo": {"etr": {}, "linear_length": {}, "rloo": {}},
    "gspo + forking_tokens + weighted_reinforce": {
        "gspo": {}, "forking_tokens": {}, "weighted_reinforce": {},
    },
}  # fmt: skip


def every_choice(registry: dict) -> dict[str, Chosen]:
    """Name -> what ``build_method`` takes; without the rules of one microbatch."""
    return {name: {name: {}} for name in registry} | FORMS | COMPOSITIONS


def methods_of(chosen: Chosen) -> list[tuple[Schedule, Method]]:
    """The method of each phase, with the schedule it is part of."""
    schedule = build_method(chosen)
    return [(schedule, phase.method) for phase in schedule.phases]
