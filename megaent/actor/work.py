"""The work of a model, by its architecture."""

from __future__ import annotations

from megaent.experience.work import Work
from megaent.model_folder.architecture import Architecture


def work_of(architecture: Architecture, *, shares_prompts: bool) -> Work:
    """Multiplications and additions of the matrix products; of experts, those that a token goes through."""
    hidden, size = architecture.hidden_size, architecture.head_dim
    heads, groups = architecture.num_heads, architecture.num_kv_heads
    attention = hidden * size * (2 * heads + 2 * groups)
    expert = 3 * hidden * architecture.intermediate_size
    experts = architecture.experts
    feed_forward = experts.chosen * expert + hidden * experts.count if experts else expert
    return Work(
        per_token=2 * architecture.num_layers * (attention + feed_forward),
        per_prediction=2 * hidden * architecture.vocab_size,
        per_pair=4 * architecture.num_layers * heads * size,
        shares_prompts=shares_prompts,
    )
