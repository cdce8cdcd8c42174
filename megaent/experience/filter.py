"""Which groups are worth training on: dynamic sampling (DAPO, arXiv:2503.14476)."""

from __future__ import annotations

from collections.abc import Sequence

from megaent.types import Group


def is_informative(group: Group) -> bool:
    """Not all responses equally right: a group of one counts, since it has nobody to be compared with."""
    return len(group.grades) == 1 or len({grade.correct for grade in group.grades}) > 1


def first_kept(kept: Sequence[Group], everywhere: Sequence[int], count: int) -> list[Group]:
    """Of ``kept`` those among the first ``count`` of all replicas' places, ``everywhere``."""
    allowed = set(sorted(everywhere)[:count])
    return [group for group in kept if group.index in allowed]
