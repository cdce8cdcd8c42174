"""A process that answers as an SGLang server does, over TCP, and misbehaves on command.

Its tokens follow from what stands before them by a fixed rule, so whoever continues a response that was cut
short gets what an uncut one would have had. As a program: ``faulty_server.py PORT``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VOCABULARY = 50
STALL_S = 120.0  # far beyond the limits of the tests
_START_S = 20.0

# ---------------------------------------------------------------- what is right


def next_token(tokens: Sequence[int]) -> int:
    """Of a context: any fixed rule will do that depends on all of it."""
    return (7 * sum(tokens) + 3 * len(tokens)) % VOCABULARY


def log_prob(token: int) -> float:
    return -0.5 - token / 100


def continuation(prompt: Sequence[int], limit: int, stops: Sequence[int] = ()) -> list[int]:
    drawn: list[int] = []
    while len(drawn) < limit and not (drawn and drawn[-1] in stops):
        drawn.append(next_token([*prompt, *drawn]))
    return drawn


def good_answer(body: dict[str, Any], version: str, limit: int | None = None) -> dict[str, Any]:
    """``limit`` cuts it by an abort."""
    params = body["sampling_params"]
    stops = params.get("stop_token_ids", [])
    tokens = continuation(body["input_ids"], limit or params["max_new_tokens"], stops)
    finish: dict[str, Any] = {"type": "length", "length": len(tokens)}
    if tokens[-1] in stops:
        finish = {"type": "stop", "matched": tokens[-1]}
    elif limit is not None:
        finish = {"type": "abort", "message": "Abort in waiting queue"}
    meta = {
        "id": body["rid"],
        "finish_reason": finish,
        "prompt_tokens": len(body["input_ids"]),
        "completion_tokens": len(tokens),
        "cached_tokens": 0,
        "weight_version": version,
        "weight_versions": [{"version": version, "start": 0, "end": len(tokens)}],
        "output_token_logprobs": [[log_prob(token), token, None] for token in tokens],
    }
    return {"output_ids": tokens, "meta_info": meta}


# ---------------------------------------------------------------- what is wrong

Answer = dict[str, Any]


def _without_log_probs(answer: Answer) -> None:
    del answer["meta_info"]["output_token_logprobs"]


def _short_log_probs(answer: Answer) -> None:
    answer["meta_info"]["output_token_logprobs"].pop()


def _nan(answer: Answer) -> None:
    answer["meta_info"]["output_token_logprobs"][0][0] = float("nan")


def _positive(answer: Answer) -> None:
    answer["meta_info"]["output_token_logprobs"][0][0] = 0.3


def _of_other_tokens(answer: Answer) -> None:
    entry = answer["meta_info"]["output_token_logprobs"][0]
    entry[1] = (entry[1] + 1) % VOCABULARY


def _outside(answer: Answer) -> None:
    answer["output_ids"][0] = VOCABULARY


def _empty(answer: Answer) -> None:
    answer["output_ids"] = []
    answer["meta_info"] |= {"output_token_logprobs": [], "weight_versions": []}


def _too_long(answer: Answer) -> None:
    answer["output_ids"] += [0] * VOCABULARY


def _of_another(answer: Answer) -> None:
    answer["meta_info"]["id"] += "x"


def _no_meta(answer: Answer) -> None:
    answer["meta_info"] = None


def _gap_in_versions(answer: Answer) -> None:
    answer["meta_info"]["weight_versions"][0]["start"] = 1


SPOILED: dict[str, Callable[[Answer], None]] = {
    "no log-probs": _without_log_probs,
    "short log-probs": _short_log_probs,
    "nan": _nan,
    "positive": _positive,
    "of other tokens": _of_other_tokens,
    "outside": _outside,
    "empty": _empty,
    "too long": _too_long,
    "of another": _of_another,
    "no meta": _no_meta,
    "gap in versions": _gap_in_versions,
}
BROKEN = ("error 500", "error 503", "not json", "truncated", "close")


_START = {
    "faults": [],
    "delay_s": 0.0,
    "version": "default",
    "keeps_version": False,
    "is_paused": False,
    "asked": [],
    "under_way": 0,
    "most": 0,
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: dict[str, Any] = {}  # noqa: RUF012 - of the process, which serves one test
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/model_info":
            self.reply(200, {"weight_version": self.state["version"], "model_path": ""})
        elif self.path == "/server_info":
            self.reply(200, {"dtype": "float32", "device": "cpu", "context_length": None})
        elif self.path == "/asked":
            self.reply(200, {"asked": self.state["asked"], "most": self.state["most"]})
        else:
            self.reply(self.health() if self.path == "/health" else 404, {})

    def health(self) -> int:
        """SGLang's generates, and so waits for the end of a pause."""
        return 503 if self.state["is_paused"] else 200

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
        if self.path == "/state":
            self.state.update(body)
        elif self.path == "/update_weight_version":
            if not self.state["keeps_version"]:
                self.state["version"] = body["new_version"]
        elif self.path == "/generate":
            return self.generate(body)
        return self.reply(200, {})

    def generate(self, body: dict[str, Any]) -> None:
        with self.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.state["asked"].append({"body": body, "headers": headers})
            faults = self.state["faults"]
            fault = faults.pop(0) if faults else ""
            self.state["under_way"] += 1
            self.state["most"] = max(self.state["most"], self.state["under_way"])
        time.sleep(self.state["delay_s"])
        with self.lock:
            self.state["under_way"] -= 1
        self.answer(body, fault)

    def answer(self, body: dict[str, Any], fault: str) -> None:
        version = self.state["version"]
        if fault.startswith("abort"):
            return self.reply(200, good_answer(body, version, limit=int(fault.split()[1])))
        answer = good_answer(body, version)
        if fault in SPOILED:
            SPOILED[fault](answer)
        text = json.dumps(answer)
        if fault == "stall":
            time.sleep(STALL_S)
        elif fault == "error 500":
            return self.reply(500, {"error": {"message": "out of memory"}})
        elif fault == "error 503":
            return self.reply(503, {"error": "no worker is available"})
        elif fault == "refuse":
            return self.reply(400, {"error": {"message": "the input is too long"}})
        elif fault == "not json":
            text = "<html>" + text
        elif fault == "truncated":
            self.send(200, text[: len(text) // 2], promised=len(text))
            self.close_connection = True
            return None
        elif fault == "close":
            self.close_connection = True
            return None
        return self.send(200, text)

    def reply(self, status: int, value: object) -> None:
        self.send(status, json.dumps(value))

    def send(self, status: int, text: str, *, promised: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(promised or len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing to a test's output."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Whoever does not wait for an answer is no error of ours."""


class FaultyServer:
    """Starts the process; ``restart`` brings another one up at the same address."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.restart()

    def restart(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__, str(self._port)])
        deadline = time.monotonic() + _START_S
        while True:
            try:
                self.state()
                return
            except OSError:
                assert time.monotonic() < deadline, "the faulty server does not even start"
                time.sleep(0.02)

    def reset(self) -> None:
        """As it started: well behaved, asked nothing, with the weights that nobody named."""
        self.state(**_START)

    def state(self, **values: object) -> None:
        """``faults`` (one each for the coming requests), ``delay_s``, ``version``, ``keeps_version``,
        ``is_paused``."""
        self._ask("/state", json.dumps(values).encode())

    def asked(self) -> list[dict[str, Any]]:
        """Every request to generate so far: its ``body`` and ``headers``."""
        return self._asked()["asked"]

    def most_at_once(self) -> int:
        return self._asked()["most"]

    def _asked(self) -> dict[str, Any]:
        return self._ask("/asked")

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """A POST where there is a body."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url + path, body), timeout=_START_S) as answer:
            return json.loads(answer.read())

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


def main() -> None:
    _Handler.state = dict(_START)
    _Server(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()


if __name__ == "__main__":
    main()
