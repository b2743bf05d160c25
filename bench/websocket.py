"""A WebSocket client with as little machinery as possible.

Frames are masked with zeros, which changes nothing (RFC 6455, section 5.3, asks for more, but not
on this machine): what is measured is the server.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nhost: bench\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def request(action: str, id: int, data: dict[str, Any]) -> bytes:
    """A request, as it goes over the wire."""
    frame = {"type": "request", "action": action, "request_id": id, "data": data}
    return masked(json.dumps(frame).encode(), 1)


def masked(payload: bytes, opcode: int) -> bytes:
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)
    return head + b"\0\0\0\0" + payload


class WebSocket:
    """One blocking connection; `welcome` has been read."""

    def __init__(self, port: int, path: str, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_HANDSHAKE.format(path=path).encode())
        self._rest = b""
        while b"\r\n\r\n" not in self._rest:
            self._rest += self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"the socket was refused: {head[:300]!r}")
        self.welcome = json.loads(self.receive())

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, frame: bytes) -> None:
        self.socket.sendall(frame)

    def receive(self) -> bytes:
        """The next message; pings are answered."""
        while True:
            head = self._take(2)
            size = head[1]
            if size == 126:
                (size,) = struct.unpack("!H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._take(8))
            payload = self._take(size)
            opcode = head[0] & 0x0F
            if opcode == 1:
                return payload
            if opcode == 9:
                self.send(masked(payload, 10))
            elif opcode == 8:
                raise ConnectionError(f"the server closed the socket: {payload!r}")

    def ask(self, action: str, id: int, data: dict[str, Any]) -> Any:
        """Send a request and give the data of the very next message."""
        self.send(request(action, id, data))
        answer = json.loads(self.receive())
        if not answer.get("success"):
            raise RuntimeError(f"{action} failed: {answer}")
        return answer["data"]

    def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += self._more()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _more(self) -> bytes:
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed the connection")
        return piece
