"""A WebSocket client with as little machinery as possible, and a process that reads many.

Frames are masked with zeros, which changes nothing (RFC 6455, section 5.3, asks for more, but not
on this machine): what is measured is the server.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import struct
import time
from datetime import datetime
from multiprocessing.connection import Connection as Pipe
from typing import Any

from bench.apart import PIECE_BYTES, Apart, Arrivals, rest, say

_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nhost: bench\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_MARK = b'"type":"event","subscription_id"'
_TIME = re.compile(rb'"type":"event","subscription_id".*?"timestamp":"([^"]+)"')
_ALIVE_SECONDS = 10
"""How often a listener says that it is alive; it looks for no pings."""


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


class Listeners(Apart):
    """Sockets that subscribe to document events, read by one process of its own.

    Their number is `readers`, and `deaf` more that read nothing after they have subscribed to the
    whole log, documents included.
    """

    def __init__(self, port: int, path: str, readers: int, deaf: int = 0) -> None:
        super().__init__(_listen, port, path, readers, deaf, ready_seconds=120)

    def collect(self, each: int, *, at_most: float = 120.0) -> list[float]:
        """Seconds from each event's timestamp to its arrival, of all readers."""
        delays: list[float] = self.asked((each, at_most), at_most + 60)
        return delays


def _listen(pipe: Pipe, port: int, path: str, readers: int, deaf: int) -> None:
    whole = {"types": "document.*", "after": "beginning", "include": ["document"]}
    reading = [WebSocket(port, path) for _ in range(readers)]
    for one in reading:
        one.ask("subscribe", 1, {"types": "document.*"})
        one.socket.setblocking(False)
    stalled = [WebSocket(port, path, receive_buffer=4096) for _ in range(deaf)]
    for one in stalled:  # last: a socket that reads nothing is closed after a while
        one.send(request("subscribe", 1, whole))
    rest()
    say(pipe)
    say(pipe, _read(reading, pipe))


def _read(sockets: list[WebSocket], pipe: Pipe) -> list[float]:
    selector = selectors.DefaultSelector()
    for number, one in enumerate(sockets):
        selector.register(one.socket, selectors.EVENT_READ, number)
    selector.register(pipe.fileno(), selectors.EVENT_READ, -1)
    arrivals = [Arrivals() for _ in sockets]
    counts = [0] * len(sockets)
    each: int | None = None
    ends = float("inf")
    alive = time.perf_counter()
    while each is None or (min(counts) < each and time.perf_counter() < ends):
        if time.perf_counter() > alive + _ALIVE_SECONDS:
            alive = time.perf_counter()
            for one in sockets:
                one.send(masked(b"", 10))
        for key, _ in selector.select(0.1):
            if key.data < 0:
                each, at_most = pipe.recv()
                ends = time.perf_counter() + at_most
                selector.unregister(pipe.fileno())
                continue
            piece = sockets[key.data].socket.recv(PIECE_BYTES)
            if not piece:
                raise RuntimeError("the server closed a socket")
            arrivals[key.data].take(piece)
            counts[key.data] += piece.count(_MARK)
    if set(counts) != {each}:
        raise RuntimeError(f"of {each} events {min(counts)} to {max(counts)} were heard")
    return [
        at - datetime.fromisoformat(match[1].decode()).timestamp()
        for own in arrivals
        for match, at in own.found(_TIME)
    ]
