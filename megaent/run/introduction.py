"""What a person can check before a run begins: the model's experts, where responses end, the first prompt."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from megaent.actor.router_options import RouterOptions
from megaent.data.task import Task
from megaent.model_folder.architecture import read_architecture
from megaent.model_folder.contents import check_weights

_ENDS_SHOWN = 8
_CHARACTERS_SHOWN = 2000


def introduce(task: Task, folder: Path, router: RouterOptions, console: Console) -> None:
    """``folder`` is the model's, as the run was given it; ``router`` what its routers are to learn."""
    left_out = (f"left out of the model's files: {what}" for what in check_weights(folder))
    for line in (
        *left_out,
        *mixture(folder, router),
        f"responses end with {ends(task)}",
        *task.notes,
        "the first prompt (prompt.txt):",
    ):
        console.print(line, markup=False, soft_wrap=True)
    prompt = first_prompt(task)
    more = len(prompt) - _CHARACTERS_SHOWN
    shown = prompt[:_CHARACTERS_SHOWN] + (f"… and {more} characters" if more > 0 else "")
    console.print("\n".join(f"  | {line}" for line in shown.split("\n")), markup=False, soft_wrap=True)


def mixture(folder: Path, router: RouterOptions) -> tuple[str, ...]:
    """What is not as it was in the model's pretraining; nothing for a dense model."""
    experts = read_architecture(folder).experts
    if experts is None:
        return ()
    coefs = f"balance_coef={router.balance_coef:g} and z_coef={router.z_coef:g}"
    beside = f"and from model.router.{coefs}" if router.is_used else f"alone (model.router.{coefs})"
    return (
        f"{experts.count} experts a layer, {experts.chosen} a token; "
        f"a router learns from the policy's loss {beside}",
    )


def first_prompt(task: Task) -> str:
    """The text of its tokens, special ones too."""
    return task.text_of(task.train[0].tokens) if task.train else ""


def ends(task: Task) -> str:
    """``'<|im_end|>' (151645), '<|endoftext|>' (151643)``"""
    shown = [f"{task.text_of((token,))!r} ({token})" for token in task.stop_token_ids[:_ENDS_SHOWN]]
    more = len(task.stop_token_ids) - _ENDS_SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
