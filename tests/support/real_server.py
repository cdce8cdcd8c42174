"""Real SGLang servers for tests, and what their model says when it is asked without them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from megaent.rollout.sglang.server import Server, ServerOptions

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-sglang" / "bin" / "python"
START_LIMIT_S = 1500.0  # half a minute on a quiet machine


def require_sglang() -> None:
    if not PYTHON.is_file():
        pytest.skip("SGLang is not installed; run `./scripts/setup_sglang`")


def start_servers(model: Path, logs: Path, count: int, *, context_length: int) -> list[Server]:
    """Ready ones; none is left behind when one of them fails."""
    require_sglang()
    servers: list[Server] = []
    try:
        for number in range(count):
            options = ServerOptions(
                python=PYTHON,
                model=model,
                log=logs / f"server-{number}.log",
                dtype="float32",
                device="cpu",
                context_length=context_length,
                max_running_requests=64,
                start_timeout_s=START_LIMIT_S,
            )
            servers.append(Server(options))
        for server in servers:
            server.wait_until_ready()
    except BaseException:
        for server in servers:
            server.close()
        raise
    return servers


class Truth:
    """A model folder in this process: what the servers should say, token by token."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.vocab_size: int = self._model.config.vocab_size

    def with_weights(self, weights: list[tuple[str, Tensor]]) -> Truth:
        """The same model with other weights."""
        other = copy.copy(self)
        other._model = copy.deepcopy(self._model)
        other._model.load_state_dict(dict(weights), strict=False)
        return other

    def weights(self) -> list[tuple[str, Tensor]]:
        return [(name, tensor.detach().clone()) for name, tensor in self._model.named_parameters()]

    @torch.no_grad()
    def log_probs(self, prompt: tuple[int, ...], drawn: tuple[int, ...], temperature: float = 1.0) -> Tensor:
        """[R, V] nats: over what could have stood in each place of ``drawn``."""
        token_1L = torch.tensor([[*prompt, *drawn]])
        logits_LV = self._model(token_1L).logits[0, len(prompt) - 1 :]
        return (logits_LV[: max(len(drawn), 1)].double() / temperature).log_softmax(-1)
