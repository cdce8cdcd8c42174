"""From a packed experience to what one forward pass eats.

A microbatch is some responses, each behind its prompt, back to back; or each group's prompt once, with its
responses behind it. The tokens are shifted here and only here: the input at position j predicts token j + 1,
and only the places that predict a response token are ``rows`` of the loss. Under context parallelism each
sequence is padded on the right to a multiple of 2 cp and split in zig-zag order; a last dummy sequence rounds
the pack up to what sequence parallelism needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from megaent.actor.attention import PackedSequences, zigzag_ranges
from megaent.actor.packed_causal import Tail, length_buckets
from megaent.errors import ConfigError
from megaent.experience.balance import partition
from megaent.experience.work import Work
from megaent.types import Columns, Experience, TokenTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch(Columns):
    responses: tuple[int, ...]  # of the experience
    input_ids: Tensor  # [1, L] this context rank's tokens
    position_ids: Tensor  # [1, L]
    packed: PackedSequences
    row: Tensor  # [n] places in L whose target is a response token
    target: Tensor  # [n]
    place: Tensor  # [n] index into the experience's [T]

    def to(self, device: torch.device) -> Microbatch:
        cu = self.packed.cu_seqlens_q.to(device)
        buckets = self.packed.buckets
        packed = replace(
            self.packed,
            cu_seqlens_q=cu,
            cu_seqlens_kv=cu,
            buckets=None if buckets is None else buckets.to(device),
        )
        return replace(Columns.to(self, device), packed=packed)


@dataclass(frozen=True, slots=True)
class PackRules:
    """How responses become packs: the same on every rank of a replica."""

    budget: int  # tokens a pack, at most, before it is rounded up
    cp: int = 1
    multiple: int = 1  # the length of a pack divides by it
    shares_prompts: bool = False  # a group's prompt stands once in a pack; without context parallelism

    @classmethod
    def of(cls, budget: int, *, cp: int, tp: int, shares_prompts: bool, multiple: int = 1) -> PackRules:
        """``tp`` counts under sequence parallelism only; ``multiple``: of tokens a rank, for its kernels."""
        return cls(budget, cp, (2 * cp * tp if cp > 1 else tp) * multiple, shares_prompts)

    def padded(self, length: int) -> int:
        unit = 2 * self.cp if self.cp > 1 else 1
        return -(-length // unit) * unit

    def rounded_up(self, length: int) -> int:
        """A pack is never empty."""
        return max(-(-length // self.multiple), 1) * self.multiple


def split_microbatches(
    batch: Experience, responses: list[int], rules: PackRules, work: Work
) -> list[list[int]]:
    """Responses into as few packs within the budget as first fit finds, with as equal work as can be.

    A response without tokens is in no pack: there is nothing to predict. Raises ConfigError when one sequence
    alone is over the budget.
    """
    return _balanced(batch, first_fit(batch, responses, rules), rules, work)


def _balanced(batch: Experience, packs: list[list[int]], rules: PackRules, work: Work) -> list[list[int]]:
    """What ``packs`` hold of each sequence or group that is read as one, divided anew into as many packs.

    Of largest differencing, which knows no budget, heaviest first to the pack of least work with room, and
    ``packs`` themselves, the one whose heaviest pack is lightest.
    """
    sizes, cost = _Sizes(batch, rules), WorkOfPacks(batch, work)
    pieces = [piece for pack in packs for piece in sizes.pieces(pack)]
    costs = [cost(piece) for piece in pieces]
    divided = [partition(costs, len(packs)), _lightest_with_room(sizes, pieces, costs, len(packs))]
    joined = [[sorted(r for i in part for r in pieces[i]) for part in parts] for parts in divided if parts]
    fitting = [found for found in joined if all(sizes.tokens(pack) <= rules.budget for pack in found)]
    return min([*fitting, packs], key=lambda found: max(map(cost, found), default=0))


def _lightest_with_room(
    sizes: _Sizes, pieces: list[list[int]], costs: list[int], num_packs: int
) -> list[list[int]]:
    """Pieces by pack; none where a piece finds no room."""
    tokens = [sizes.tokens(piece) for piece in pieces]
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    load, room = [0] * num_packs, [sizes.rules.budget] * num_packs
    for piece in sorted(range(len(pieces)), key=lambda i: (-costs[i], i)):
        fits = [pack for pack in range(num_packs) if room[pack] >= tokens[piece]]
        if not fits:
            return []
        pack = min(fits, key=load.__getitem__)
        packs[pack].append(piece)
        load[pack] += costs[piece]
        room[pack] -= tokens[piece]
    return packs


class WorkOfPacks:
    """The work of some responses of a batch, ascending."""

    def __init__(self, batch: Experience, work: Work) -> None:
        self._work = work
        self._prompt = [len(prompt.tokens) for prompt in batch.prompts]
        self._group: list[int] = batch.group.tolist()
        self._length: list[int] = batch.length.tolist()

    def __call__(self, pack: Sequence[int]) -> int:
        return sum(
            self._work.of_group(self._prompt[prompt], [self._length[response] for response in members])
            for prompt, members in groupby(pack, key=self._group.__getitem__)
        )


def first_fit(batch: Experience, responses: list[int], rules: PackRules) -> list[list[int]]:
    """Longest first, into the first pack with room; where prompts are shared, groups of most tokens first,
    and packs that hold the prompt before others.
    """
    sizes = _Sizes(batch, rules)
    packs: list[_Pack] = []
    for response in sorted(filter(sizes.length.__getitem__, responses), key=sizes.order(responses)):
        alone = sizes.alone(response)
        if alone > rules.budget:
            raise ConfigError(
                f"a sequence of {alone} tokens exceeds parallel.microbatch_tokens={rules.budget}; "
                f"set parallel.microbatch_tokens to {alone} or more, or lower rollout.max_new_tokens"
            )
        pack = sizes.first_with_room(packs, response)
        if pack is None:
            packs.append(pack := _Pack([], set(), 0))
        pack.length += sizes.added(pack, response)
        pack.responses.append(response)
        pack.groups.add(sizes.group[response])
    return [sorted(pack.responses) for pack in packs]


def pack_length(batch: Experience, pack: Sequence[int], rules: PackRules) -> int:
    """Tokens of a built pack before any context split."""
    return rules.rounded_up(_Sizes(batch, rules).tokens(pack))


@dataclass(slots=True)
class _Pack:
    responses: list[int]
    groups: set[int]
    length: int


class _Sizes:
    """Input tokens of prompts and responses: the last token of a response is predicted, never read."""

    def __init__(self, batch: Experience, rules: PackRules) -> None:
        self.rules = rules
        self.group: list[int] = batch.group.tolist()
        self.prompt = [len(batch.prompts[group].tokens) for group in self.group]
        self.length: list[int] = batch.length.tolist()

    def alone(self, response: int) -> int:
        return self.rules.padded(self.prompt[response] + self.length[response] - 1)

    def added(self, pack: _Pack, response: int) -> int:
        """What ``response`` adds to ``pack``."""
        if self.rules.shares_prompts and self.group[response] in pack.groups:
            return self.length[response] - 1
        return self.alone(response)

    def tokens(self, responses: Sequence[int]) -> int:
        """Of these in one pack, before it is rounded up."""
        built = _Pack([], set(), 0)
        for response in filter(self.length.__getitem__, responses):
            built.length += self.added(built, response)
            built.groups.add(self.group[response])
        return built.length

    def pieces(self, pack: Sequence[int]) -> list[list[int]]:
        """What is read as one: where prompts are shared, the responses to one of them."""
        if not self.rules.shares_prompts:
            return [[response] for response in pack]
        return [list(members) for _, members in groupby(pack, key=self.group.__getitem__)]

    def order(self, responses: list[int]):
        """A key to sort by: what is longest comes first."""
        if not self.rules.shares_prompts:
            return lambda response: (-self.alone(response), response)
        total = dict.fromkeys(self.group, 0)
        for response in responses:
            total[self.group[response]] += self.length[response]
        return lambda r: (-total[self.group[r]] - self.prompt[r], self.group[r], -self.length[r], r)

    def first_with_room(self, packs: list[_Pack], response: int) -> _Pack | None:
        fits = [p for p in packs if p.length + self.added(p, response) <= self.rules.budget]
        holding = (p for p in fits if self.rules.shares_prompts and self.group[response] in p.groups)
        return next(holding, fits[0] if fits else None)


def build_microbatch(
    batch: Experience, responses: list[int], rules: PackRules, *, cp_rank: int = 0, at_least: int = 0
) -> Microbatch:
    """Model inputs of these responses, ascending, for one context rank; ``responses`` may be empty.

    The pack is ``at_least`` so many tokens long.
    """
    token: list[int] = batch.token.tolist()
    start: list[int] = (batch.length.cumsum(0) - batch.length).tolist()
    length: list[int] = batch.length.tolist()
    group: list[int] = batch.group.tolist()
    builder = _Builder(rules, cp_rank)
    for prompt, members in groupby(filter(length.__getitem__, responses), key=group.__getitem__):
        spans = [range(start[response], start[response] + length[response]) for response in members]
        add = builder.add_group if rules.shares_prompts and len(spans) > 1 else builder.add_each
        add(batch.prompts[prompt].tokens, spans, token)
    builder.round_up(at_least)
    return builder.build(tuple(responses))


class _Builder:
    """Collects sequences of one pack, already cut to this context rank."""

    def __init__(self, rules: PackRules, cp_rank: int) -> None:
        self.rules, self.cp_rank = rules, cp_rank
        self.borders = [0]
        self.tails: list[Tail] = []
        self.inputs: list[int] = []
        self.positions: list[int] = []
        self.rows: list[int] = []
        self.targets: list[int] = []
        self.places: list[int] = []

    def add_each(self, prompt: Sequence[int], spans: list[range], token: list[int]) -> None:
        """The prompt again before every response."""
        for span in spans:
            response = token[span.start : span.stop]
            self._append([*prompt, *response][:-1], targets=response, first_place=span.start)

    def add_group(self, prompt: Sequence[int], spans: list[range], token: list[int]) -> None:
        """The prompt once; its last token predicts every first one."""
        start = self.borders[-1]
        self._append(list(prompt))
        for span in spans:
            self.rows.append(start + len(prompt) - 1)
            self.targets.append(token[span.start])
            self.places.append(span.start)
            response = token[span.start : span.stop]
            self._append(response[:-1], len(prompt), targets=response[1:], first_place=span.start + 1)
        if self.borders[-1] > start + len(prompt):
            self.tails.append(Tail(start, start + len(prompt), self.borders[-1]))

    def round_up(self, at_least: int) -> None:
        """One dummy sequence, so that the pack divides."""
        total = self.borders[-1]
        self._append([0] * (self.rules.rounded_up(max(total, at_least)) - total))

    def _append(
        self, tokens: list[int], position: int = 0, *, targets: list[int] | None = None, first_place: int = 0
    ) -> None:
        """One sequence from ``position`` on; ``targets`` are predicted at its last tokens."""
        if not tokens:
            return
        targets = targets or []
        first = len(tokens) - len(targets)  # that predicts
        padded = self.rules.padded(len(tokens))
        for mine in zigzag_ranges(padded, self.cp_rank, self.rules.cp):
            local = len(self.inputs)
            piece = tokens[mine.start : mine.stop]
            self.inputs += piece + [0] * (len(mine) - len(piece))
            self.positions += range(position + mine.start, position + mine.stop)
            here = range(max(mine.start, first), min(mine.stop, len(tokens)))
            self.rows += range(local + here.start - mine.start, local + here.stop - mine.start)
            self.targets += targets[here.start - first : max(here.stop - first, 0)]
            self.places += range(first_place + here.start - first, first_place + here.stop - first)
        self.borders.append(self.borders[-1] + padded)

    def build(self, responses: tuple[int, ...]) -> Microbatch:
        cu = torch.tensor(self.borders, dtype=torch.int32)
        longest = int((cu[1:] - cu[:-1]).max())
        borders = tuple(self.borders)
        columns = (self.inputs, self.positions, self.rows, self.targets, self.places)
        inputs, positions, row, target, place = (torch.tensor(c, dtype=torch.int64) for c in columns)
        return Microbatch(
            responses=responses,
            input_ids=inputs[None],
            position_ids=positions[None],
            packed=PackedSequences(
                qkv_format="thd",
                cu_seqlens_q=cu,
                cu_seqlens_kv=cu,
                max_seqlen_q=longest,
                max_seqlen_kv=longest,
                borders=borders,
                buckets=length_buckets(borders) if self.rules.cp == 1 else None,
                tails=tuple(self.tails),
            ),
            row=row,
            target=target,
            place=place,
        )


def minibatch_of_responses(batch: Experience, terms: TokenTerms) -> list[int]:
    """[S] read off the tokens; a response without tokens belongs to none."""
    minibatch_S = torch.full((batch.num_responses,), -1, dtype=torch.int64)
    minibatch_S[batch.owner.cpu()] = terms.minibatch.cpu()
    return minibatch_S.tolist()
