"""A trainer without Megatron or a model: TinyActor learns to prefer one token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from megaent.actor.tiny_actor import TinyActor
from megaent.data.curriculum import CurriculumOptions
from megaent.data.prompts import PromptStream
from megaent.data.task import Task
from megaent.loop.ahead import source_of
from megaent.loop.collect import Collector
from megaent.loop.course import Course
from megaent.loop.generation import Generation
from megaent.loop.method_state import MethodState
from megaent.loop.prompt_draw import PromptDraw
from megaent.loop.trainer import Trainer
from megaent.methods import build_method
from megaent.reward.reward import Reward
from megaent.rollout.engine import RolloutEngine
from megaent.rollout.fake import FakeEngine
from megaent.types import Grade, Group, Prompt, Response, SamplingParams

VOCAB = 12
WANTED = 7


class CountsWanted:
    """Reward: the share of tokens that are ``WANTED``."""

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        return [
            replace(
                group,
                grades=tuple(
                    Grade(reward=r.tokens.count(WANTED) / len(r.tokens), correct=WANTED in r.tokens)
                    for r in group.responses
                ),
            )
            for group in groups
        ]

    def close(self) -> None: ...


class Judge:
    """Reward 1 where ``is_right`` says so of the tokens; remembers every group that it graded."""

    def __init__(self, is_right: Callable[[Sequence[int]], bool]) -> None:
        self._is_right = is_right
        self.seen: list[Group] = []

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        graded = [replace(group, grades=tuple(map(self._grade, group.responses))) for group in groups]
        self.seen += graded
        return graded

    def _grade(self, response: Response) -> Grade:
        is_right = self._is_right(response.tokens)
        return Grade(reward=float(is_right), correct=is_right, answer="read")

    def close(self) -> None: ...


def make_trainer(
    *,
    engine: RolloutEngine | None = None,
    seed: int = 0,
    lr: float = 0.05,
    mismatch_limit: float = 0.0,
    staleness: int = 0,
    num_steps: int = 30,
    per_step: int = 8,
    method: Mapping[str, Mapping[str, object]] | None = None,
    reward: Reward | None = None,
    curriculum: CurriculumOptions | None = None,
) -> Trainer:
    schedule = build_method(method or {"grpo": {}})
    prompts = tuple(Prompt(id=f"p{i}", tokens=(1, i % VOCAB), text=f"p{i}", answer="") for i in range(32))
    actor = TinyActor(VOCAB, lr=lr)
    generation = Generation(
        engine=engine or FakeEngine(VOCAB),
        stream=PromptStream(prompts, per_step=per_step, seed=seed),
        course=Course(
            schedule=schedule,
            state=MethodState(
                schedule,
                [prompt.id for prompt in prompts],
                draw=None if curriculum is None else PromptDraw(curriculum, prompts, seed=seed),
            ),
            num_steps=num_steps,
            layout=actor.layout,
        ),
        sampling=SamplingParams(max_new_tokens=6),
        group_size=4,
        seed=seed,
    )
    task = Task(
        train=prompts,
        evaluation=prompts[:4],
        grader="none",
        stop_token_ids=(),
        decode=lambda ids: str(ids),
    )
    return Trainer(
        actor=actor,
        collector=Collector(
            generation=generation,
            source=source_of(generation, staleness=staleness, timeout_s=60),
            reward=reward or CountsWanted(),
            task=task,
        ),
        num_minibatches=2,
        seed=seed,
        mismatch_limit=mismatch_limit,
        staleness=staleness,
    )
