"""Many event streams read by one process of its own.

`count` only counts document events as they pass; `times` notes when each piece came and looks
into it afterwards.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection as Pipe
from typing import Literal

from bench.apart import PIECE_BYTES, Apart, Arrivals, rest, say

Mode = Literal["count", "times"]

_MARK = b"\nevent: document."
_EVENT = re.compile(
    rb'event: document\.[^\n]*\ndata: \{"id":"[^"]*".*?"timestamp":"([^"]+)"[^\n]*\n\n'
)
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Heard:
    """`events` per subscriber; `first` and `last` in seconds of the monotonic clock; `delays` in
    seconds from an event's timestamp to its arrival."""

    events: list[int]
    first: float
    last: float
    delays: list[float]
    bytes: int


class Subscribers(Apart):
    """`with Subscribers(…) as subscribers`: subscribed on entering."""

    def __init__(self, port: int, count: int, mode: Mode, path: str = "/v1/events/stream") -> None:
        super().__init__(_listen, port, count, mode, path)

    def collect(self, each: int, *, at_most: float = 120.0) -> Heard:
        """Wait until every subscriber has heard `each` events, or for so long."""
        heard: Heard = self.asked((each, at_most), at_most + 60)
        return heard


def _listen(pipe: Pipe, port: int, count: int, mode: Mode, path: str) -> None:
    sockets = [_subscribe(port, path) for _ in range(count)]
    rest()
    say(pipe)
    reader = _Counter(sockets) if mode == "count" else _Timer(sockets)
    say(pipe, _read(sockets, reader, pipe))


def _subscribe(port: int, path: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
    seen = b""
    while b"event: ready" not in seen or not seen.endswith(b"\n\n\r\n"):
        piece = connection.recv(65536)
        if not piece:
            raise RuntimeError(f"the event stream ended: {seen.decode(errors='replace')[:500]}")
        seen += piece
    connection.setblocking(False)
    return connection


def _read(sockets: list[socket.socket], reader: _Counter | _Timer, pipe: Pipe) -> Heard:
    selector = selectors.DefaultSelector()
    for number, connection in enumerate(sockets):
        selector.register(connection, selectors.EVENT_READ, number)
    selector.register(pipe.fileno(), selectors.EVENT_READ, -1)
    each: int | None = None
    ends = float("inf")
    looked = 0.0
    while True:
        for key, _ in selector.select(0.1):
            if key.data >= 0:
                reader.take(key.data)
            else:
                each, at_most = pipe.recv()
                ends = time.perf_counter() + at_most
                selector.unregister(pipe.fileno())
        now = time.perf_counter()
        if each is not None and now - looked > 0.05:
            looked = now
            if now > ends or reader.least() >= each:
                return reader.heard()


class _Counter:
    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._counts = [0] * len(sockets)
        self._keep = len(_MARK) - 1
        self._tails = [b"\0" * self._keep for _ in sockets]
        self._buffer = bytearray(_BUFFER_BYTES + self._keep)
        self._room = memoryview(self._buffer)[self._keep :]
        self._first = self._last = 0.0
        self._bytes = 0

    def take(self, number: int) -> None:
        try:
            size = self._sockets[number].recv_into(self._room)
        except BlockingIOError:
            return
        if not size:
            raise RuntimeError("the server closed an event stream")
        keep, buffer = self._keep, self._buffer
        buffer[:keep] = self._tails[number]  # a mark may lie across two reads
        found = buffer.count(_MARK, 0, keep + size)
        self._tails[number] = bytes(buffer[size : size + keep])
        self._bytes += size
        if found:
            self._counts[number] += found
            self._last = time.perf_counter()
            self._first = self._first or self._last

    def least(self) -> int:
        return min(self._counts)

    def heard(self) -> Heard:
        return Heard(self._counts, self._first, self._last, [], self._bytes)


class _Timer:
    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._arrivals = [Arrivals() for _ in sockets]
        self._counts = [0] * len(sockets)

    def take(self, number: int) -> None:
        try:
            piece = self._sockets[number].recv(PIECE_BYTES)
        except BlockingIOError:
            return
        if not piece:
            raise RuntimeError("the server closed an event stream")
        self._arrivals[number].take(piece)
        self._counts[number] += piece.count(_MARK)

    def least(self) -> int:
        return min(self._counts)

    def heard(self) -> Heard:
        delays: list[float] = []
        events: list[int] = []
        arrived: list[float] = []
        for arrivals in self._arrivals:
            before = len(delays)
            for match, at in arrivals.found(_EVENT):
                delays.append(at - datetime.fromisoformat(match[1].decode()).timestamp())
                arrived.append(at)
            events.append(len(delays) - before)
        size = sum(arrivals.bytes for arrivals in self._arrivals)
        return Heard(events, min(arrived, default=0.0), max(arrived, default=0.0), delays, size)
