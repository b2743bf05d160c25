"""Sockets that subscribe to document events, read by a process of its own."""

from __future__ import annotations

import re
import selectors
import socket
import struct
import time
from datetime import datetime
from multiprocessing.connection import Connection as Pipe
from typing import Literal

from bench.apart import PIECE_BYTES, Apart, Arrivals, rest, say
from bench.websocket import WebSocket, masked, request

Clock = Literal["kernel", "reader"]
"""When an event has come: once the kernel has it for its receiver, or once that has read it."""

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the module `socket` does not name it
_MARK = b'"type":"event","subscription_id"'
_TIME = re.compile(rb'"type":"event","subscription_id".*?"timestamp":"([^"]+)"')
_ALIVE_SECONDS = 10
"""How often a listener says that it is alive; it looks for no pings."""


class Listeners(Apart):
    """Sockets that subscribe to document events, in one process of their own.

    Their number is `readers`, and `deaf` more that read nothing after they have subscribed to the
    whole log, documents included: they stop in the middle of it. By the reader's clock the others
    read as soon as there is something; by the kernel's they rest until `read`.
    """

    def __init__(
        self, port: int, path: str, readers: int, deaf: int = 0, *, clock: Clock = "reader"
    ) -> None:
        super().__init__(_listen, port, path, readers, deaf, clock, ready_seconds=120)

    def read(self, *, at_most: float = 10.0) -> None:
        """Have them read what has come by now. Only by the kernel's clock."""
        self.asked(None, at_most)

    def collect(self, each: int, *, at_most: float = 120.0) -> list[float]:
        """Seconds from each event's timestamp to its arrival, of all readers."""
        delays: list[float] = self.asked((each, at_most), at_most + 60)
        return delays


def _listen(pipe: Pipe, port: int, path: str, readers: int, deaf: int, clock: Clock) -> None:
    whole = {"types": "document.*", "after": "beginning", "include": ["document"]}
    reading = [WebSocket(port, path) for _ in range(readers)]
    for one in reading:
        one.ask("subscribe", 1, {"types": "document.*"})
        one.socket.setblocking(False)
        if clock == "kernel":
            one.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    stalled = [WebSocket(port, path, receive_buffer=4096) for _ in range(deaf)]
    for one in stalled:  # last: a socket that reads nothing is closed after a while
        one.send(request("subscribe", 1, whole))
    crowd = _Crowd(reading, by_kernel=clock == "kernel")
    rest()
    say(pipe)
    if clock == "kernel":
        while (question := pipe.recv()) is None:
            crowd.read(0)
            say(pipe)
    else:
        while not pipe.poll():
            crowd.read(0.1)
        question = pipe.recv()
    say(pipe, crowd.collect(*question))


class _Crowd:
    """Sockets, what has come on each, and how many events that were."""

    def __init__(self, sockets: list[WebSocket], *, by_kernel: bool) -> None:
        self._sockets = sockets
        self._by_kernel = by_kernel
        self._arrivals = [Arrivals() for _ in sockets]
        self._counts = [0] * len(sockets)
        self._tails = [b""] * len(sockets)  # a mark may lie across two pieces
        # An epoll has the kernel note each arrival for the receiver, in the course of the server's
        # own write; a poll does so only while it is asked.
        self._selector: selectors.BaseSelector = (
            selectors.PollSelector() if by_kernel else selectors.DefaultSelector()
        )
        self._alive = time.perf_counter()
        for number, one in enumerate(sockets):
            self._selector.register(one.socket, selectors.EVENT_READ, number)

    def read(self, at_most: float) -> None:
        """Take a piece from each that has one; wait so long for the first."""
        if time.perf_counter() > self._alive + _ALIVE_SECONDS:
            self._alive = time.perf_counter()
            for one in self._sockets:
                one.send(masked(b"", 10))
        for key, _ in self._selector.select(at_most):
            number = key.data
            one = self._sockets[number].socket
            piece, at_ns = _stamped(one) if self._by_kernel else (one.recv(PIECE_BYTES), None)
            if not piece:
                raise RuntimeError("the server closed a socket")
            self._arrivals[number].take(piece, at_ns)
            seen = self._tails[number] + piece
            self._counts[number] += seen.count(_MARK)
            self._tails[number] = seen[1 - len(_MARK) :]

    def collect(self, each: int, at_most: float) -> list[float]:
        """Read on until each has heard so many events; the seconds that each took."""
        ends = time.perf_counter() + at_most
        while min(self._counts) < each and time.perf_counter() < ends:
            self.read(0.1)
        if set(self._counts) != {each}:
            fewest, most = min(self._counts), max(self._counts)
            raise RuntimeError(f"of {each} events {fewest} to {most} were heard")
        return [
            at - datetime.fromisoformat(match[1].decode()).timestamp()
            for own in self._arrivals
            for match, at in own.found(_TIME)
        ]


def _stamped(reading: socket.socket) -> tuple[bytes, int]:
    """What there is to read, and when the last of it came."""
    piece, notes, _, _ = reading.recvmsg(PIECE_BYTES, 64)
    for level, kind, data in notes:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", data)
            return piece, seconds * 1_000_000_000 + nanoseconds
    raise RuntimeError("the kernel does not say when it received that")
