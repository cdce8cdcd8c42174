"""How a server is started: its command line, its port, its environment."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megaent.errors import ConfigError, EngineError, MissingDependency
from megaent.rollout.sglang.server import Server, ServerOptions, arguments_of, environment_of, reserve_port

OPTIONS = ServerOptions(
    python=Path(sys.executable),
    model=Path("model"),
    log=Path("server.log"),
    dtype="bfloat16",
    device="cuda",
    context_length=1000,
    max_running_requests=32,
)


def test_the_command_line_on_a_gpu() -> None:
    arguments = {"tp_size": 2, "mem_fraction_static": 0.8, "enable_metrics": True, "lora_paths": ["a", "b"]}
    words = arguments_of(replace(OPTIONS, arguments=arguments), 30000)
    expected = "--model-path model --host 127.0.0.1 --port 30000 --dtype bfloat16 --device cuda "
    expected += "--context-length 1008 --max-running-requests 32 --skip-tokenizer-init --log-level warning "
    expected += "--tp-size 2 --mem-fraction-static 0.8 --enable-metrics --lora-paths a b"
    assert " ".join(words) == expected


def test_on_a_cpu_the_plain_torch_paths_are_chosen_and_may_be_replaced() -> None:
    words = arguments_of(replace(OPTIONS, device="cpu"), 1)
    assert words[words.index("--attention-backend") + 1] == "torch_native"
    assert words[words.index("--max-total-tokens") + 1] == str(1008 * 32)
    words = arguments_of(replace(OPTIONS, device="cpu", arguments={"max_total_tokens": 500}), 1)
    assert words.count("--max-total-tokens") == 1
    assert words[words.index("--max-total-tokens") + 1] == "500"


@pytest.mark.parametrize("name", ["port", "host", "model_path", "dtype", "api_key", "skip_tokenizer_init"])
def test_an_option_that_is_ours_to_choose_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"rollout\.server_args\.{name} cannot be set; use"):
        arguments_of(replace(OPTIONS, arguments={name: "x"}), 1)


@pytest.mark.parametrize("value", [False, None])
def test_a_switch_that_is_off_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="has no effect"):
        arguments_of(replace(OPTIONS, arguments={"enable_metrics": value}), 1)


def test_a_reserved_port_is_given_to_nobody_else_and_open_to_who_names_it() -> None:
    """A server listens with SO_REUSEADDR, as asyncio does on its own."""
    with reserve_port() as reserved:
        address = reserved.getsockname()
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(address)
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen()
            socket.create_connection(address, timeout=5).close()


def test_a_server_does_not_inherit_its_trainers_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "PYTHONPATH", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("KEPT", "yes")
    environment = environment_of(replace(OPTIONS, threads=3), "/tmp/x")
    assert environment["KEPT"] == "yes"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["TMPDIR"] == "/tmp/x"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "PYTHONPATH"} & environment.keys()


def test_a_missing_environment_comes_with_its_command(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match=r"\./scripts/setup_sglang"):
        Server(replace(OPTIONS, python=tmp_path / "python", log=tmp_path / "log"))


def test_a_server_that_dies_while_starting_is_quoted(tmp_path: Path) -> None:
    """This interpreter has no sglang."""
    server = Server(replace(OPTIONS, log=tmp_path / "run" / "server.log"))
    with pytest.raises(EngineError, match="ended with code 1") as raised:
        server.wait_until_ready()
    assert "No module named sglang" in str(raised.value) or "No module named 'sglang'" in str(raised.value)
    assert not server.is_alive
    server.close()


def test_a_server_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\necho started\nexec sleep 100\n")
    slow.chmod(0o755)
    server = Server(replace(OPTIONS, python=slow, log=tmp_path / "server.log", start_timeout_s=0.5))
    with pytest.raises(EngineError, match=r"start_timeout_s=0\.5"):
        server.wait_until_ready()
    assert not server.is_alive
