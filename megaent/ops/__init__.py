"""Per-token quantities of the policy from one pass over the vocabulary."""

from megaent.ops.linear_logprob_entropy import linear_logprob_entropy
from megaent.ops.logprob_entropy import logprob_entropy
from megaent.ops.token_statistics import TokenStatistics, Vocabulary

__all__ = ["TokenStatistics", "Vocabulary", "linear_logprob_entropy", "logprob_entropy"]
