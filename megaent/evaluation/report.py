"""What graded responses say, as numbers: of all prompts, and of each subject, difficulty and split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from statistics import fmean
from typing import Any

from megaent.evaluation.efficiency import (
    accuracy_efficiency_score,
    length_adjusted_accuracy,
    normalized_accuracy_gap,
    normalized_accuracy_gap_table1,
)
from megaent.evaluation.estimators import ESTIMATORS, Answers, Estimate, estimate
from megaent.evaluation.paired import Paired, paired
from megaent.evaluation.transitions import Transition, transitions
from megaent.types import Grade, Group

QUANTILES = (0.1, 0.5, 0.9, 0.99)
_UNREAD = ("no answer found", "answer not understood", "answer too long")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of a response, the one that ended it included."""

    mean: float
    correct: float | None  # mean of the correct ones; None where there are none
    wrong: float | None
    quantiles: Mapping[float, int]  # the smallest length with at least that share at or below it
    longest: int
    histogram: Mapping[int, int]  # {b: responses of b/2 < length <= b tokens}


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionEntropy:
    """Tokens at places ``first`` to ``last`` of their responses, counted from 0."""

    first: int
    last: int
    nats: float  # mean surprisal, an unbiased estimate of the entropy of what they were drawn from
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Of some prompts; ``responses`` = correct + wrong + unparsable + unscored."""

    prompts: int
    responses: int
    correct: int
    wrong: int  # an answer was read, and it is not right
    unparsable: int  # none could be read; as wrong as the others in every estimate
    unscored: int  # the verifier failed; in no estimate
    truncated: int  # cut at the length limit, whatever the verdict
    estimates: Mapping[str, Estimate]  # "pass@4" and so on
    lengths: Lengths
    entropy: tuple[PositionEntropy, ...]  # () where tokens were not drawn from the whole distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """With a base that answered the same prompts; see ``efficiency`` for the measures."""

    base_accuracy: float
    base_length: float
    accuracy: Paired
    l_acc: float | None
    nag: float | None
    nag_table1: float | None
    aes: float | None
    transitions: tuple[Transition, ...]


def report(groups: Sequence[Group], ks: Sequence[int], *, has_entropy: bool) -> Report:
    """``groups`` are graded and at least one."""
    grades = [grade for group in groups for grade in group.grades]
    states = Counter(map(state, grades))
    answers = [scored(group) for group in groups]
    return Report(
        prompts=len(groups),
        responses=len(grades),
        correct=states["correct"],
        wrong=states["wrong"],
        unparsable=states["unparsable"],
        unscored=states["unscored"],
        truncated=sum(response.finish == "length" for group in groups for response in group.responses),
        estimates={
            f"{name[:-1]}{k}": estimate(of, answers, k)
            for k in ks
            for name, of in ESTIMATORS.items()
            if k > 1 or name == "avg@k"
        },
        lengths=_lengths(groups),
        entropy=tuple(_entropy(groups)) if has_entropy else (),
    )


def state(grade: Grade) -> str:
    if not grade.is_scored:
        return "unscored"
    if grade.correct:
        return "correct"
    return "unparsable" if not grade.answer or grade.note in _UNREAD else "wrong"


def scored(group: Group) -> Answers:
    grades = [grade for grade in group.grades if grade.is_scored]
    return Answers(
        correct=tuple(grade.correct for grade in grades),
        reward=tuple(grade.reward for grade in grades),
        answer=tuple(grade.answer if state(grade) != "unparsable" else "" for grade in grades),
    )


def by_label(groups: Iterable[Group]) -> dict[str, dict[str, list[Group]]]:
    """``{"subject": {"Algebra": […], …}, "split": …}``; labels of one value for all are left out."""
    found: dict[str, dict[str, list[Group]]] = {}
    for group in groups:
        split = (("split", group.prompt.split),) if group.prompt.split else ()
        for label, value in (*split, *group.prompt.labels):
            found.setdefault(label, {}).setdefault(value, []).append(group)
    return {label: dict(sorted(cut.items())) for label, cut in sorted(found.items()) if len(cut) > 1}


def compare(ours: Sequence[Group], base: Sequence[Group]) -> Comparison | None:
    """Over the prompts that both answered and a verdict was reached on; None where there are none."""
    ours_by_id, base_by_id = _by_id(ours), _by_id(base)
    test = paired(
        {name: _share(group) for name, group in ours_by_id.items()},
        {name: _share(group) for name, group in base_by_id.items()},
    )
    if test is None:
        return None
    shared = ours_by_id.keys() & base_by_id.keys()
    accuracy, length = _mean(ours_by_id[name] for name in shared)
    base_accuracy, base_length = _mean(base_by_id[name] for name in shared)
    four = (accuracy, base_accuracy, length, base_length)
    return Comparison(
        base_accuracy=base_accuracy,
        base_length=base_length,
        accuracy=test,
        l_acc=length_adjusted_accuracy(accuracy, length, base_length),
        nag=normalized_accuracy_gap(*four),
        nag_table1=normalized_accuracy_gap_table1(*four),
        aes=accuracy_efficiency_score(*four),
        transitions=transitions(ours_by_id, base_by_id),
    )


def as_json(part: Report | Comparison) -> dict[str, Any]:
    return asdict(part)


# ---------------------------------------------------------------- lengths and entropy


def _lengths(groups: Sequence[Group]) -> Lengths:
    pairs = [
        (len(response.tokens), grade)
        for group in groups
        for response, grade in zip(group.responses, group.grades, strict=True)
    ]
    ascending = sorted(length for length, _ in pairs)
    bins = Counter(1 << max(length - 1, 0).bit_length() for length in ascending)
    return Lengths(
        mean=fmean(ascending),
        correct=_mean_or_none(length for length, grade in pairs if state(grade) == "correct"),
        wrong=_mean_or_none(length for length, grade in pairs if state(grade) in ("wrong", "unparsable")),
        quantiles={q: ascending[max(math.ceil(q * len(ascending)) - 1, 0)] for q in QUANTILES},
        longest=ascending[-1],
        histogram=dict(sorted(bins.items())),
    )


def _entropy(groups: Sequence[Group]) -> Iterable[PositionEntropy]:
    """Of places 0, 1, 2-3, 4-7, …"""
    sums: Counter[int] = Counter()
    counts: Counter[int] = Counter()
    for group in groups:
        for response in group.responses:
            for place, log_prob in enumerate(response.log_prob):
                sums[place.bit_length()] -= log_prob  # type: ignore[assignment]
                counts[place.bit_length()] += 1
    for bits in sorted(counts):
        first = 1 << bits >> 1
        last = max((1 << bits) - 1, 0)
        yield PositionEntropy(first=first, last=last, nats=sums[bits] / counts[bits], tokens=counts[bits])


def _mean_or_none(values: Iterable[float]) -> float | None:
    known = list(values)
    return fmean(known) if known else None


# ---------------------------------------------------------------- of one prompt


def _by_id(groups: Sequence[Group]) -> dict[str, Group]:
    return {group.prompt.id: group for group in groups if len(scored(group))}


def _share(group: Group) -> Fraction:
    answers = scored(group)
    return Fraction(sum(answers.correct), len(answers))


def _mean(groups: Iterable[Group]) -> tuple[float, float]:
    """Mean accuracy and mean length, each prompt counting once."""
    own = [(float(_share(group)), fmean(len(r.tokens) for r in group.responses)) for group in groups]
    return fmean(accuracy for accuracy, _ in own), fmean(length for _, length in own)
