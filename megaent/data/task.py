"""A task: what to train on, what to evaluate on, and how a response is read and graded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from megaent.data.prompts import PromptSource, PromptStream
from megaent.types import Group, Prompt

Decode = Callable[[Sequence[int]], str]


class PromptSets(Sequence[Prompt]):
    """Prompts of one or several sets that bring an order of their own, and are known without being read."""

    longest: int  # tokens
    num_sets: int  # that are mixed
    digest: str  # of all of them, and of what decides their order

    @abstractmethod
    def stream(self, *, per_step: int, seed: int) -> PromptSource: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Prompts with answer keys, and everything about them that the loop needs to know.

    ``evaluation`` is ordered so that any prefix holds its splits as evenly as they allow; none of its
    problems appears in ``train``. ``grader`` and ``grader_options`` are what ``make_reward`` takes.
    """

    train: Sequence[Prompt]
    evaluation: Sequence[Prompt]
    grader: str
    grader_options: Mapping[str, object] = field(default_factory=dict)
    stop_token_ids: tuple[int, ...]
    decode: Decode  # token ids -> text, special tokens and the one that ended it left out
    spell: Decode | None = None  # token ids -> text, special tokens too; None where `decode` leaves none out
    step_boundary: str = ""  # text that closes a step of reasoning; "" for answers without steps
    date: str = ""  # YYYY-MM-DD that the chat template wrote into the prompts; "" where it reads no clock
    notes: tuple[str, ...] = ()  # what to tell of the prompts at the start

    def stream(self, *, per_step: int, seed: int) -> PromptSource:
        """Which of ``train`` a step asks."""
        if isinstance(self.train, PromptSets):
            return self.train.stream(per_step=per_step, seed=seed)
        return PromptStream(self.train, per_step=per_step, seed=seed)

    def text_of(self, tokens: Sequence[int]) -> str:
        """Every token as text, special ones too."""
        return (self.spell or self.decode)(tokens)


def longest_of(prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest prompt; 0 without any."""
    if isinstance(prompts, PromptSets):
        return prompts.longest
    return max((len(prompt.tokens) for prompt in prompts), default=0)


def decode_groups(groups: Iterable[Group], decode: Decode) -> list[Group]:
    """The groups with the text of every response filled in."""
    return [
        replace(group, responses=tuple(replace(r, text=decode(r.tokens)) for r in group.responses))
        for group in groups
    ]


def alternate(splits: Iterable[Sequence[Prompt]]) -> tuple[Prompt, ...]:
    """One prompt of each split in turn, until all are used up."""
    queues = [list(split) for split in splits]
    longest = max(map(len, queues), default=0)
    return tuple(queue[i] for i in range(longest) for queue in queues if i < len(queue))
