"""Every method as it comes, methods with their other forms switched on, and compositions."""

from __future__ import annotations

Chosen = dict[str, dict[str, object]]

FORMS: dict[str, Chosen] = {
    "grpo with all its terms": {"grpo": {"entropy_coef": 0.01, "kl_coef": 0.1, "clip_high": 0.28}},
    "grpo per response": {"grpo": {"aggregation": "response_mean", "dual_clip": 0.0}},
    "grpo without the deviation": {
        "grpo": {"normalize": False, "aggregation": "constant_length", "constant_length": 64}
    },
}

COMPOSITIONS: dict[str, Chosen] = {}


def every_choice(registry: dict) -> dict[str, Chosen]:
    """Name -> what ``build_method`` takes."""
    return {name: {name: {}} for name in registry} | FORMS | COMPOSITIONS
