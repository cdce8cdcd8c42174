"""Messages between a pool and its workers: four bytes of length, then JSON."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")


def send(to: socket.socket, message: object) -> None:
    body = json.dumps(message).encode()
    to.sendall(_LENGTH.pack(len(body)) + body)


def receive(sender: socket.socket) -> Any:
    """The next message; None when the other side has closed. Raises OSError, also TimeoutError."""
    head = _exactly(sender, _LENGTH.size)
    body = _exactly(sender, _LENGTH.unpack(head)[0]) if head is not None else None
    return None if body is None else json.loads(body)


def _exactly(sender: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        chunk = sender.recv(min(size - len(parts), 1 << 20))
        if not chunk:
            return None
        parts += chunk
    return bytes(parts)
