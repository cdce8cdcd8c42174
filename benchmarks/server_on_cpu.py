"""The SGLang server that the benchmarks of this folder measure: fp32, on this machine's CPU, one thread."""

from __future__ import annotations

from pathlib import Path

from megaent.rollout.sglang.server import Server, ServerOptions

PYTHON = Path(__file__).resolve().parents[1] / ".venv-sglang" / "bin" / "python"
"""Of the environment that ./scripts/setup_sglang makes."""


def start_server(model: Path, log: Path, *, context_length: int, max_running_requests: int) -> Server:
    """Ready to generate. Raises MegaentError, and leaves nothing behind then."""
    server = Server(
        ServerOptions(
            python=PYTHON,
            model=model,
            log=log,
            dtype="float32",
            device="cpu",
            context_length=context_length,
            max_running_requests=max_running_requests,
        )
    )
    try:
        server.wait_until_ready()
    except BaseException:
        server.close()
        raise
    return server
