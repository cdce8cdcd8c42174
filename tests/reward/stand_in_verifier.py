"""A real server on loopback that grades by a rule: correct where response and key are the same text.

``python stand_in_verifier.py FOLDER`` prints its port. What it should do wrong stands in the question; what
it was asked is appended to FOLDER/asked, a line a request.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        folder = Path(sys.argv[1])
        with (folder / "asked").open("a") as file:
            file.write(json.dumps([item["response"] for item in items]) + "\n")
        count = len((folder / "asked").read_text().splitlines())
        status, body = answer(items, count, self.headers.get("Authorization", ""))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing."""


def answer(items: list[dict[str, str]], count: int, authorization: str) -> tuple[int, bytes]:
    question = items[0]["question"]
    if question == "busy once" and count == 1:
        return 503, b"busy\x1b[31m"
    if question == "always busy":
        return 503, b"busy"
    if question == "refuse":
        return 422, b"no such field"
    if question == "no words":
        return 200, b"<html>"
    if question == "too few":
        return 200, b'{"grades": []}'
    if question == "too much":
        return 200, b" " * (1 << 25)
    if question == "not finite":
        return 200, b'{"grades": [{"reward": NaN, "correct": true}]}'
    if question == "slow":
        time.sleep(2)
    if question == "die":
        os._exit(1)
    return 200, json.dumps({"grades": [grade(item, count, authorization) for item in items]}).encode()


def grade(item: dict[str, str], count: int, authorization: str) -> dict[str, object]:
    if item["response"] == "fail once" and count == 1:
        return {"failed": "no memory"}
    if item["response"] == "fail":
        return {"failed": "no memory"}
    correct = item["response"] == item["key"]
    note = authorization if item["question"] == "who" else ""
    return {"reward": float(correct), "correct": correct, "answer": item["response"], "note": note}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
