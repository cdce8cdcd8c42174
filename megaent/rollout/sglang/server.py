"""One SGLang server of ours: a port of its own on loopback, a log file, and an end no later than ours."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megaent.errors import ConfigError, EngineError, MissingDependency

LOOPBACK = "127.0.0.1"
LAUNCHER = Path(__file__).with_name("launcher.py")
_END_LIMIT_S = 30.0
_POLL_S = 0.25
KEPT_BY_SGLANG = 8  # tokens at the end of a context that it gives to no request
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_LINES_SHOWN = 15  # of a dead server's log

# What a server would misread: the trainer's place among its ranks, and its interpreter's settings.
_NOT_INHERITED = ("GROUP_", "LOCAL_", "MASTER_", "OMP_", "PYTHON", "RANK", "ROLE_", "TORCHELASTIC_", "WORLD_")

# For glibc: the pages of a large tensor that was freed serve the next one. Otherwise each bucket of weights
# would be given back, and its pages cleared again when the next one comes.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}

# SGLang's options that have a name of ours, or that the client relies on.
_OURS = {
    "model_path": "model.path",
    "context_length": "rollout.context_length",
    "dtype": "rollout.dtype",
    "device": "device",
    "max_running_requests": "rollout.max_running_requests",
    "host": "rollout.urls, for servers that listen elsewhere",
    "port": "rollout.urls, for servers that listen elsewhere",
    "api_key": "rollout.urls and rollout.api_key_variable: SGLang writes its options into its log",
    "skip_tokenizer_init": "nothing: the client speaks in token ids",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How one server is started."""

    python: Path  # of the environment that ./scripts/setup_sglang made
    model: Path
    log: Path
    dtype: str  # float32 | bfloat16 | float16
    device: str  # cpu | cuda
    context_length: int  # tokens
    max_running_requests: int
    threads: int = 1  # of each server process, on a CPU
    start_timeout_s: float = 600.0
    arguments: Mapping[str, object] = field(default_factory=dict)  # SGLang's own options under its names


class Server:
    """Starts at once and is of use after ``wait_until_ready``. To be made in the main thread.

    The kernel ends a child together with the *thread* that started it, so that a worker thread would take
    its servers along.
    """

    def __init__(self, options: ServerOptions) -> None:
        assert threading.current_thread() is threading.main_thread(), "servers end with their starting thread"
        if not options.python.is_file():
            raise MissingDependency(
                f"{options.python} does not exist; ./scripts/setup_sglang makes the environment that SGLang "
                "servers run in, rollout.python names another one"
            )
        self._options = options
        self._reserved = reserve_port()
        port = self._reserved.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{port}"
        self._folder = tempfile.mkdtemp(prefix="megaent-sglang-")  # SGLang leaves its sockets behind
        options.log.parent.mkdir(parents=True, exist_ok=True)
        with options.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(options.python), "-P", str(LAUNCHER), str(os.getpid()), *arguments_of(options, port)],
                env=environment_of(options, self._folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._deadline = time.monotonic() + options.start_timeout_s
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """Of the process that leads the server's group."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self) -> None:
        """Return once the server has generated a token.

        Raises EngineError, with the end of its log, when the server dies or needs longer than it may.
        """
        while not self._generates():
            if not self.is_alive:
                self.close()
                raise EngineError(f"the SGLang server did not start; {self.last_words()}")
            if time.monotonic() > self._deadline:
                self.close()
                raise EngineError(
                    f"the SGLang server was not ready within rollout.start_timeout_s="
                    f"{self._options.start_timeout_s:g}; {self.last_words()}"
                )
            time.sleep(_POLL_S)
        self._reserved.close()

    def close(self) -> None:
        """End every process of the server; harmless when called twice."""
        atexit.unregister(self.close)
        self._reserved.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_END_LIMIT_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _generates(self) -> bool:
        try:
            # SGLang gives the probe 20 s; a server that stands still must not hold this loop.
            with _NO_PROXY.open(f"{self.url}/health_generate", timeout=25.0) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException):  # urllib's own errors are OSErrors
            return False

    def another(self) -> Server:
        """A new server of the same kind in place of this one, not ready yet; it has an address of its own."""
        self.close()
        return Server(self._options)

    def last_words(self) -> str:
        """How the server ended, if it did, and the end of its log."""
        code = self._process.poll()
        lines = self._options.log.read_text(encoding="utf-8", errors="replace").splitlines()
        end = "\n".join(lines[-_LINES_SHOWN:])
        ended = "" if code is None else f"it ended with code {code}; "
        return f"{ended}{self._options.log} ends with\n{end}"


def torch_of(python: Path) -> str:
    """The version of torch in the environment of an interpreter. Raises MissingDependency."""
    asked = "import importlib.metadata; print(importlib.metadata.version('torch'))"
    try:
        done = subprocess.run(
            [str(python), "-P", "-c", asked], capture_output=True, text=True, check=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise MissingDependency(
            f"{python} names no version of torch ({error}); ./scripts/setup_sglang makes an environment for "
            "SGLang servers"
        ) from error
    return done.stdout.strip()


def reserve_port() -> socket.socket:
    """A socket bound to a free port of the loopback interface, not listening.

    As long as it is open the kernel gives the port to nobody who asks for any, and a server that names it
    may still listen there (both set SO_REUSEADDR), although it takes a minute until it does.
    """
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((LOOPBACK, 0))
    return reserved


def arguments_of(options: ServerOptions, port: int) -> list[str]:
    """The server's command line. Raises ConfigError for an option that is not the caller's to set."""
    for name in options.arguments:
        if name in _OURS:
            raise ConfigError(f"rollout.server_args.{name} cannot be set; use {_OURS[name]}")
    named: dict[str, object] = {
        "model_path": options.model,
        "host": LOOPBACK,
        "port": port,
        "dtype": options.dtype,
        "device": options.device,
        "context_length": options.context_length + KEPT_BY_SGLANG,
        "max_running_requests": options.max_running_requests,
        "skip_tokenizer_init": True,
        "log_level": "warning",
    }
    if options.device == "cpu":
        named |= {
            "attention_backend": "torch_native",
            "disable_cuda_graph": True,
            "disable_overlap_schedule": True,
            "sleep_on_idle": True,  # a waiting scheduler otherwise takes a whole core from the trainer
            "max_total_tokens": _cpu_cache_tokens(options),
        }
    words: list[str] = []
    for name, value in (named | dict(options.arguments)).items():
        words += _words(name, value)
    return words


def _cpu_cache_tokens(options: ServerOptions) -> int:
    """Room for every request at full length; SGLang's own choice goes by the memory of a GPU."""
    return (options.context_length + KEPT_BY_SGLANG) * options.max_running_requests


def _words(name: str, value: object) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if value is True:
        return [flag]
    if value is None or value is False:
        raise ConfigError(
            f"rollout.server_args.{name}={value} has no effect: a switch of SGLang's is true or is left out"
        )
    if isinstance(value, list | tuple):
        return [flag, *map(str, value)]
    return [flag, str(value)]


def environment_of(options: ServerOptions, folder: str) -> dict[str, str]:
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    settings = {
        "GLOO_SOCKET_IFNAME": "lo",  # gloo would listen on the address of the host's name
        "HF_HUB_OFFLINE": "1",
        "NO_PROXY": LOOPBACK,  # the server warms up by a request to itself
        "OMP_NUM_THREADS": str(options.threads),
        "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1",  # for the tokens that it keeps
        "TMPDIR": folder,
        "TRANSFORMERS_OFFLINE": "1",
    }
    if options.device == "cpu":
        settings |= {"SGLANG_USE_CPU_ENGINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        settings |= _KEEP_MEMORY
    return inherited | settings
