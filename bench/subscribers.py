"""Many event streams read by one process of its own.

`count` only counts document events as they pass; `times` notes when each piece came and looks
into it afterwards. Both must read faster than the server writes, or they measure themselves.
"""

from __future__ import annotations

import gc
import multiprocessing
import re
import selectors
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection as Pipe
from types import TracebackType
from typing import Any, Literal

import numpy as np

Mode = Literal["count", "times"]

_MARK = b"\nevent: document."
_EVENT = re.compile(rb'event: document\.[^\n]*\ndata: \{"id":"[^"]*".*?"timestamp":"([^"]+)"')
_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 64 << 10
"""A larger one is mapped and unmapped by the allocator at every read, which would be measured."""


@dataclass(frozen=True, slots=True)
class Heard:
    """`events` per subscriber; `first` and `last` in seconds of the monotonic clock; `delays` in
    seconds from an event's timestamp to its arrival."""

    events: list[int]
    first: float
    last: float
    delays: list[float]
    bytes: int


class Subscribers:
    """`with Subscribers(…) as subscribers`: subscribed on entering."""

    def __init__(self, port: int, count: int, mode: Mode, path: str = "/v1/events/stream") -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(port, count, mode, path, theirs))

    def __enter__(self) -> Subscribers:
        self._process.start()
        self._expect("ready", 60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    def collect(self, each: int, *, at_most: float = 120.0) -> Heard:
        """Wait until every subscriber has heard `each` events, or for so long."""
        self._pipe.send((each, at_most))
        heard: Heard = self._expect("heard", at_most + 60)
        return heard

    def _expect(self, name: str, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"the subscribers did not say {name}")
        said, value = self._pipe.recv()
        if said != name:
            raise RuntimeError(f"the subscribers failed: {value}")
        return value


def _main(port: int, count: int, mode: Mode, path: str, pipe: Pipe) -> None:
    try:
        sockets = [_subscribe(port, path) for _ in range(count)]
        gc.collect()
        gc.disable()
        pipe.send(("ready", None))
        reader = _Counter(sockets) if mode == "count" else _Timer(sockets)
        pipe.send(("heard", _read(sockets, reader, pipe)))
    except (OSError, RuntimeError, ValueError) as error:
        pipe.send(("failed", repr(error)))


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
        self._pieces: list[list[tuple[int, bytes]]] = [[] for _ in sockets]
        self._counts = [0] * len(sockets)

    def take(self, number: int) -> None:
        try:
            piece = self._sockets[number].recv(_PIECE_BYTES)
        except BlockingIOError:
            return
        if not piece:
            raise RuntimeError("the server closed an event stream")
        self._pieces[number].append((time.time_ns(), piece))
        self._counts[number] += piece.count(_MARK)

    def least(self) -> int:
        return min(self._counts)

    def heard(self) -> Heard:
        delays: list[float] = []
        events: list[int] = []
        arrivals: list[int] = []
        for pieces in self._pieces:
            before = len(delays)
            rest = b""
            for at_ns, piece in pieces:
                *frames, rest = (rest + piece).split(b"\n\n")
                for frame in frames:
                    if match := _EVENT.search(frame):
                        delays.append(at_ns / 1e9 - _seconds(match[1]))
                        arrivals.append(at_ns)
            events.append(len(delays) - before)
        first, last = (min(arrivals) / 1e9, max(arrivals) / 1e9) if arrivals else (0.0, 0.0)
        size = sum(len(piece) for pieces in self._pieces for _, piece in pieces)
        return Heard(events, first, last, np.asarray(delays).tolist(), size)


def _seconds(timestamp: bytes) -> float:
    return datetime.fromisoformat(timestamp.decode()).timestamp()
