"""Certain tokens weigh as much as the responses of their kind agree on them: LESS.

Token-level shaping of LESS, arXiv:2512.00908. Multipliers lie in [0, 1] while ``base_weight`` does: LESS
only ever scales advantages down.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.objective.seen import Labels, Seen
from megaent.objective.segments import linked_patterns, segments
from megaent.ops.segment_support import Segments, segment_support

MODES = ("clean", "released")
HIGH, UNIQUE, SHARED, OWN_KIND = range(4)
KINDS = ("high", "unique", "shared", "own_kind")


class GroupTokens(NamedTuple):
    """The tokens of one group; L tokens, R responses."""

    token: Tensor  # [L] int64
    owner: Tensor  # [L] response, from 0
    is_high: Tensor  # [L] bool, entropy above the response's threshold
    found: Segments
    correct: Tensor  # [R] bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSupport:
    """The advantage of a low-entropy token, times the share of its kind that holds its segment.

    Per response, the threshold is the entropy of rank ``round(quantile * tokens)``. Tokens above it
    keep weight 1; the others start from ``base_weight`` (None: 1 / number of responses in the group of the
    same correctness). Segments are runs strictly below it of ``min_length`` tokens or more. Under a pattern
    (megaent.objective.segments) found in responses of both kinds the weight is 0; found in c of the N
    responses of one kind, it is at least c / N.

    ``mode`` "clean" counts every occurrence of every pattern, and is the same for any order of the
    responses; "released" is the authors' code, which paints one place per pattern and response, one
    pattern after the other, so that a later one can undo the 0 of an earlier one.
    """

    mode: str = "clean"
    quantile: float = 0.8
    min_length: int = 5
    base_weight: float | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if not 0 <= self.quantile <= 1:
            raise ValueError(f"quantile must lie in [0, 1], got {self.quantile}")
        if self.min_length < 1:
            raise ValueError(f"min_length must be 1 token or more, got {self.min_length}")
        if self.base_weight is not None and not 0 <= self.base_weight <= 1:
            raise ValueError(f"base_weight must lie in [0, 1], or null for 1 / N, got {self.base_weight}")

    def __call__(self, advantage_T: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        weight_T, kind_T = self.multipliers(seen)
        right_T = batch.correct[batch.owner]
        mask_T = batch.mask
        seen.notes.mean("less/shared", kind_T == SHARED, mask_T)
        seen.notes.mean("less/correct_only", (kind_T == OWN_KIND) & right_T, mask_T)
        seen.notes.mean("less/incorrect_only", (kind_T == OWN_KIND) & ~right_T, mask_T)
        seen.notes.mean("less/unique", kind_T == UNIQUE, mask_T)
        seen.notes.labels["segment"] = Labels(kind_T, KINDS)
        return weight_T.to(advantage_T.dtype) * advantage_T

    def multipliers(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """[T] fp64 weights, and [T] what is known of each token: HIGH entropy, or else of its segment."""
        groups = self.groups(seen)
        painted = [self._clean(group) if self.mode == "clean" else self._released(group) for group in groups]
        none = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
        weights, kinds = zip(none, *painted, strict=True)
        return torch.cat(weights), torch.cat(kinds)

    def groups(self, seen: Seen) -> list[GroupTokens]:
        """The batch, group by group; a token that is not trained on belongs to no segment."""
        batch = seen.batch
        assert batch.entropy is not None, "pieces see scored batches only"
        sizes = torch.bincount(batch.group, minlength=len(batch.prompts)).tolist()
        first, found = 0, []
        by_group = zip(batch.length.split(sizes), batch.correct.split(sizes), strict=True)
        for length_R, correct_R in by_group:
            span = slice(first, first + int(length_R.sum()))
            owner_L = torch.repeat_interleave(torch.arange(length_R.numel()), length_R)
            entropy_L, mask_L = batch.entropy[span], batch.mask[span]
            threshold_L = self._thresholds(entropy_L, mask_L, length_R)
            found.append(
                GroupTokens(
                    token=batch.token[span],
                    owner=owner_L,
                    is_high=entropy_L > threshold_L,
                    found=segments((entropy_L < threshold_L) & mask_L, owner_L, self.min_length),
                    correct=correct_R,
                )
            )
            first = span.stop
        return found

    def _thresholds(self, entropy_L: Tensor, mask_L: Tensor, length_R: Tensor) -> Tensor:
        """[L] of each token's response; Python's ``round``, half to even, as published."""
        lengths = length_R.tolist()
        bounds = []
        for part, trained in zip(entropy_L.split(lengths), mask_L.split(lengths), strict=True):
            ranked = part[trained].sort().values
            place = min(round(ranked.numel() * self.quantile), ranked.numel() - 1)
            bounds.append((ranked[place] if ranked.numel() else part.new_zeros(())).expand_as(part))
        return torch.cat([entropy_L[:0], *bounds])

    def _base(self, group: GroupTokens) -> tuple[Tensor, Tensor]:
        """[L] the weights before any pattern, and [R] how many responses are of a response's kind."""
        right = int(group.correct.sum())
        kin_R = torch.where(group.correct, right, group.correct.numel() - right).double()
        base_R = 1.0 / kin_R if self.base_weight is None else torch.full_like(kin_R, self.base_weight)
        return torch.where(group.is_high, 1.0, base_R[group.owner]), kin_R

    def _clean(self, group: GroupTokens) -> tuple[Tensor, Tensor]:
        weight_L, kin_R = self._base(group)
        support = segment_support(group.token, group.found, group.correct)
        weight_L = torch.maximum(weight_L, support.same / kin_R[group.owner])
        weight_L = torch.where(support.is_shared, 0.0, weight_L)
        kind_L = torch.where(group.is_high, HIGH, UNIQUE)
        kind_L = torch.where(support.same > 0, OWN_KIND, kind_L)
        kind_L = torch.where(support.is_shared, SHARED, kind_L)
        return weight_L, kind_L

    def _released(self, group: GroupTokens) -> tuple[Tensor, Tensor]:
        weight_L, kin_R = self._base(group)
        kind_L = torch.where(group.is_high, HIGH, UNIQUE)
        first_R = _first_tokens(group)
        for pattern, start_of in self.patterns(group).items():
            is_right = group.correct[list(start_of)]
            is_shared = bool(is_right.any()) and not bool(is_right.all())
            for response, start in start_of.items():
                begin = first_R[response] + start
                span = slice(begin, begin + len(pattern))
                share = len(start_of) / float(kin_R[response])
                weight_L[span] = 0.0 if is_shared else weight_L[span].clamp(min=share)
                kind_L[span] = SHARED if is_shared else OWN_KIND
        return weight_L, kind_L

    def patterns(self, group: GroupTokens) -> dict[tuple[int, ...], dict[int, int]]:
        """Pattern -> {response: start inside it}, by the published search."""
        num_responses = group.correct.numel()
        first_R = _first_tokens(group)
        runs_R: list[list[tuple[int, int]]] = [[] for _ in range(num_responses)]
        for start, stop, owner in zip(*(column.tolist() for column in group.found), strict=True):
            runs_R[owner].append((start - first_R[owner], stop - first_R[owner]))
        tokens = group.token.tolist()
        tokens_R = [tokens[start:stop] for start, stop in pairwise(first_R)]
        return linked_patterns(tokens_R, runs_R, group.correct.tolist())

    def words(self) -> str:
        base = "1 / N" if self.base_weight is None else f"{self.base_weight:g}"
        return (
            f"times a weight: 1 above the response's {self.quantile:g} quantile of entropy, else {base}; "
            f"under low-entropy segments of {self.min_length} tokens or more found in c of N of one kind "
            f"at least c / N, in responses of both kinds 0 ({self.mode})"
        )


def _first_tokens(group: GroupTokens) -> list[int]:
    """Where each response starts, and where the last one ends."""
    return torch.searchsorted(group.owner, torch.arange(group.correct.numel() + 1)).tolist()
