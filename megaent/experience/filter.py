"""Which of the groups worth training on a step keeps."""

from __future__ import annotations

from collections.abc import Sequence

from megaent.types import Group


def first_kept(kept: Sequence[Group], everywhere: Sequence[int], count: int) -> list[Group]:
    """Of ``kept`` those among the first ``count`` of all replicas' places, ``everywhere``."""
    allowed = set(sorted(everywhere)[:count])
    return [group for group in kept if group.index in allowed]
