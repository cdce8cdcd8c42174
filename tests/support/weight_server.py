"""A server in this process that takes weights as SGLang 0.5.23 does, with faults on request.

Its memory is laid out as SGLang's on a CPU: stacked projections, padding of zeros. It says what it was
asked in ``asked``, and holds to the contract: buckets only inside an update, flushes not while a request
that was paused in place holds the cache.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

STALL_S = 60.0  # a stalled answer; the test's own limit is far below


class WeightServer:
    """``shapes`` are those of the Hugging Face tensors it was started with."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], *, has_sessions: bool = True) -> None:
        self.weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self.has_sessions = has_sessions
        self.version = "default"
        self.is_paused = False
        self.is_updating = False
        self.is_held = False  # somebody else paused it in place, and requests hold its cache
        self.asked: list[str] = []
        self.num_bytes = 0  # that arrived in buckets
        self.refusing: set[str] = set()  # paths answered with 400
        self.stalling: set[str] = set()  # paths that are not answered
        self.without: set[str] = set()  # parts of its memory that it gave back
        self.damaged = ""  # a tensor that is stored with one wrong bit
        self._groups: dict[str, Any] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def begin_anew(self) -> None:
        """As after a restart: the weights it was started with, no group, nothing open."""
        self.weights = {name: torch.zeros_like(tensor) for name, tensor in self.weights.items()}
        self.version, self.is_paused, self.is_updating, self._groups = "default", False, False, {}

    # ------------------------------------------------------------ what it is asked

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        self.asked.append(path)
        if path in self.stalling:
            time.sleep(STALL_S)
        if path in self.refusing:
            return 400, {"success": False, "message": f"{path} is refused"}
        reply: Callable[[dict[str, Any]], tuple[int, Any]] = getattr(
            self, "_" + path.removeprefix("/").split(".")[0]
        )
        return reply(body)

    def _openapi(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {
            "paths": {"/begin_weight_update": {}, "/end_weight_update": {}} if self.has_sessions else {}
        }

    def _health(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, None

    def _model_info(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"weight_version": self.version, "model_path": "m"}

    def _server_info(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"tp_size": 1, "pp_size": 1, "dp_size": 1}

    def _pause_generation(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.is_paused = True
        self.is_held &= body["mode"] != "retract"
        return 200, {"status": "ok"}

    def _continue_generation(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.is_paused = False
        return 200, {"status": "ok"}

    def _begin_weight_update(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.is_updating:
            return 400, {"success": False, "message": "already open"}
        self.is_updating = True
        return 200, {"success": True, "message": ""}

    def _end_weight_update(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.is_updating = False
        return 200, {"success": True, "message": ""}

    def _flush_cache(self, body: dict[str, Any]) -> tuple[int, Any]:
        return (400, "Flush cache failed.\n") if self.is_held else (200, "Cache flushed.\n")

    def _update_weight_version(self, body: dict[str, Any]) -> tuple[int, Any]:
        assert body["abort_all_requests"] is False
        self.version = body["new_version"]
        return 200, {"success": True, "message": ""}

    def _release_memory_occupation(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.without |= set(body["tags"])
        return 200, None

    def _resume_memory_occupation(self, body: dict[str, Any]) -> tuple[int, Any]:
        for tag in body["tags"]:
            self.without.remove(tag)  # raises for what it has, as SGLang does
        return 200, None

    # ------------------------------------------------------------ weights

    def _init_weights_update_group(self, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["group_name"]
        assert name not in self._groups, "SGLang refuses a name it has seen"
        store: Any = dist.TCPStore(body["master_address"], body["master_port"], body["world_size"], False)
        for prefix in (name, f"{name}/", "cpu/"):
            store = dist.PrefixStore(prefix, store)
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        self._groups[name] = dist.ProcessGroupGloo(store, body["rank_offset"], body["world_size"], options)
        return 200, {"success": True, "message": ""}

    def _destroy_weights_update_group(self, body: dict[str, Any]) -> tuple[int, Any]:
        found = self._groups.pop(body["group_name"], None)
        return (200 if found else 400), {"success": found is not None, "message": "no such group"}

    def _update_weights_from_distributed(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.has_sessions and not self.is_updating:
            return 400, {"success": False, "message": "must run between begin and end"}
        assert body["load_format"] == "flattened_bucket"
        kinds = [getattr(torch, name) for name in body["dtypes"]]
        sizes = [
            torch.Size(shape).numel() * kind.itemsize
            for kind, shape in zip(kinds, body["shapes"], strict=True)
        ]
        data = torch.empty(sum(sizes), dtype=torch.uint8)
        self._groups[body["group_name"]].broadcast(data, 0).wait()
        self.num_bytes += data.numel()
        parts = zip(body["names"], data.split(sizes), kinds, body["shapes"], strict=True)
        return self._load({name: part.view(kind).view(shape) for name, part, kind, shape in parts})

    def _update_weights_from_disk(self, body: dict[str, Any]) -> tuple[int, Any]:
        loaded: dict[str, Tensor] = {}
        for path in sorted(Path(body["model_path"]).glob("*.safetensors")):
            loaded |= load_file(path)
        self.num_bytes += sum(tensor.nbytes for tensor in loaded.values())
        return self._load(loaded)

    def _load(self, loaded: dict[str, Tensor]) -> tuple[int, Any]:
        assert self.is_paused, "weights change under running requests"
        for name, tensor in loaded.items():
            if name not in self.weights:
                continue  # SGLang says nothing either
            if tensor.shape != self.weights[name].shape:
                return 400, {"success": False, "message": f"{name} has another shape"}
            self.weights[name] = tensor.clone()
            if name == self.damaged:
                self.weights[name].view(-1)[0] += 1
        return 200, {"success": True, "message": ""}

    def _weights_checker(self, body: dict[str, Any]) -> tuple[int, Any]:
        sums = {name: hashlib.sha256(raw).hexdigest()[:16] for name, raw in self.parameters().items()}
        return 200, {"success": True, "message": "", "ranks": [{"checksums": sums}]}

    def parameters(self) -> dict[str, bytes]:
        """The bytes of each parameter as SGLang lays it out on a CPU."""
        found: dict[str, bytes] = {}
        for name, tensor in self.weights.items():
            stacked = name
            if "gate_proj" in name or "up_proj" in name:
                tensor = torch.cat([tensor, tensor.new_zeros(-len(tensor) % 32, *tensor.shape[1:])])
            if "down_proj" in name:
                tensor = torch.cat([tensor, tensor.new_zeros(len(tensor), -tensor.shape[1] % 32)], dim=1)
            if "embed_tokens" in name:
                tensor = torch.cat([tensor, tensor.new_zeros(-len(tensor) % 64, tensor.shape[1])])
            for part, whole in (
                ("q_proj", "qkv_proj"),
                ("k_proj", "qkv_proj"),
                ("v_proj", "qkv_proj"),
                ("gate_proj", "gate_up_proj"),
                ("up_proj", "gate_up_proj"),
            ):
                stacked = stacked.replace(part, whole) if f".{part}." in name else stacked
            found[stacked] = found.get(stacked, b"") + tensor.contiguous().numpy().tobytes()
        return found


def _handler(server: WeightServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = server.answer(self.path, json.loads(body or b"{}"))
            is_text = isinstance(content, str)
            raw = (content if is_text else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if is_text else "application/json")
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
