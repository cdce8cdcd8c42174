"""What became of each answer, counted by hand."""

from __future__ import annotations

from megaent.evaluation.transitions import Transition, transitions
from megaent.types import Grade, Group, Prompt, Response


def group(name: str, *samples: tuple[bool | None, int, str]) -> Group:
    """Samples as (correct, tokens, text); None where the verifier failed."""
    return Group(
        index=0,
        prompt=Prompt(id=name, tokens=(1,), text="", answer=""),
        responses=tuple(
            Response(tokens=(7,) * tokens, log_prob=(-1.0,) * tokens, finish="stop", version=0, text=text)
            for _, tokens, text in samples
        ),
        grades=tuple(
            Grade(reward=float(bool(correct)), correct=bool(correct), is_scored=correct is not None)
            for correct, _, _ in samples
        ),
    )


def test_each_sample_is_followed_to_its_own() -> None:
    base = {
        "a": group("a", (True, 10, "one\n\ntwo"), (True, 20, "one"), (False, 8, "x")),
        "b": group("b", (True, 30, "one\n \ntwo\n\n\nthree\n\n"), (None, 99, "")),
        "only here": group("only here", (True, 1, "")),
    }
    ours = {
        "a": group("a", (True, 4, "one"), (False, 6, "one\ntwo"), (True, 5, "y\n\nz")),
        "b": group("b", (True, 10, "one"), (True, 99, ""), (False, 1, "a sample that the base has not")),
        "nor there": group("nor there", (False, 1, "")),
    }
    kept, lost, gained = transitions(ours, base)
    assert kept == Transition(
        before=True, after=True, pairs=2, share=0.5, base_length=20, length=7, base_steps=2.5, steps=1
    )
    assert lost == Transition(
        before=True, after=False, pairs=1, share=0.25, base_length=20, length=6, base_steps=1, steps=1
    )
    assert gained == Transition(
        before=False, after=True, pairs=1, share=0.25, base_length=8, length=5, base_steps=1, steps=2
    )


def test_without_a_shared_prompt_there_are_none() -> None:
    assert transitions({"a": group("a", (True, 1, ""))}, {"b": group("b", (True, 1, ""))}) == ()
