"""Columns of a table of measurements, as words of a plan."""

from __future__ import annotations

from typing import Any

from megaent.errors import ConfigError

_UNSAID = ("unknown", "any", "see recipe")  # of recomputation; read as none
_OF_TRAINING = ("seq_len", "global_batch", "micro_batch")


def said_by_tables(key: str, text: str) -> str:
    """``text`` in the plan's own word: a kind of fp8, a recomputation that is not told, a step of RL."""
    if key == "precision" and text.startswith("fp8"):
        return "fp8"
    if key == "recompute" and text in _UNSAID:
        return "none"
    return "rl" if (key, text) == ("workload", "rl_step") else text


def typed_for_a_step(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """``given`` of a step of reinforcement learning, whose tables tell the length of prompt and response
    together (seq_len), the responses of an optimizer step (global_batch) and of a microbatch (micro_batch).

    Raises ConfigError where they contradict the words that say the same.
    """
    found = {name: value for name, value in given.items() if name not in _OF_TRAINING}
    if "seq_len" in given:
        prompt = given.get("prompt_tokens", defaults["prompt_tokens"])
        room = given["seq_len"] - prompt
        mean = given.get("response_tokens", defaults["response_tokens"])
        _say(found, "max_new_tokens", int(room), because="seq_len")
        if room < mean:
            raise ConfigError(
                f"seq_len={given['seq_len']} is of prompt and response together and leaves {room:g} tokens "
                f"beside prompt_tokens={prompt:g}, where response_tokens={mean:g} is the mean of the "
                "responses; say these as they are"
            )
    if "global_batch" in given:
        responses = given.get("prompts", defaults["prompts"]) * given.get(
            "group_size", defaults["group_size"]
        )
        if given["global_batch"] < 1 or responses % given["global_batch"]:
            raise ConfigError(
                f"global_batch={given['global_batch']} does not divide the {responses} responses of a step; "
                "it is what one optimizer step learns from: prompts x group_size over minibatches"
            )
        _say(found, "minibatches", responses // given["global_batch"], because="global_batch")
    if "micro_batch" in given:
        if "seq_len" not in given:
            raise ConfigError(
                "micro_batch counts sequences of seq_len tokens; add seq_len=, or say microbatch_tokens="
            )
        tokens = given["micro_batch"] * given["seq_len"]
        _say(found, "microbatch_tokens", tokens, because="micro_batch")
    return found


def _say(found: dict[str, Any], name: str, value: int, *, because: str) -> None:
    if name in found:
        raise ConfigError(f"{because} and {name} both say the same of a step; give one of them")
    found[name] = value
