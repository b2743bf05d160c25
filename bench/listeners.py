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
_REST_SECONDS = 0.02
"""Between two rounds of reading by the kernel's clock; meanwhile no write has to wake anybody."""


class Listeners(Apart):
    """Sockets that subscribe to document events, in one process of their own.

    Their number is `readers`, and `deaf` more that read nothing after they have subscribed to the
    whole log, documents included: they stop in the middle of it.
    """

    def __init__(
        self, port: int, path: str, readers: int, deaf: int = 0, *, clock: Clock = "reader"
    ) -> None:
        super().__init__(_listen, port, path, readers, deaf, clock, ready_seconds=120)

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
    rest()
    say(pipe)
    say(pipe, _read(reading, pipe, clock))


def _read(sockets: list[WebSocket], pipe: Pipe, clock: Clock) -> list[float]:
    selector = selectors.DefaultSelector()
    for number, one in enumerate(sockets):
        selector.register(one.socket, selectors.EVENT_READ, number)
    selector.register(pipe.fileno(), selectors.EVENT_READ, -1)
    arrivals = [Arrivals() for _ in sockets]
    counts = [0] * len(sockets)
    tails = [b""] * len(sockets)  # a mark may lie across two pieces
    each: int | None = None
    ends = float("inf")
    alive = time.perf_counter()
    while each is None or (min(counts) < each and time.perf_counter() < ends):
        if time.perf_counter() > alive + _ALIVE_SECONDS:
            alive = time.perf_counter()
            for one in sockets:
                one.send(masked(b"", 10))
        if clock == "kernel":
            time.sleep(_REST_SECONDS)
        for key, _ in selector.select(0 if clock == "kernel" else 0.1):
            if key.data < 0:
                each, at_most = pipe.recv()
                ends = time.perf_counter() + at_most
                selector.unregister(pipe.fileno())
                continue
            one = sockets[key.data]
            if clock == "kernel":
                piece, at_ns = _stamped(one.socket)
            else:
                piece, at_ns = one.socket.recv(PIECE_BYTES), None
            if not piece:
                raise RuntimeError("the server closed a socket")
            arrivals[key.data].take(piece, at_ns)
            seen = tails[key.data] + piece
            counts[key.data] += seen.count(_MARK)
            tails[key.data] = seen[1 - len(_MARK) :]
    if set(counts) != {each}:
        raise RuntimeError(f"of {each} events {min(counts)} to {max(counts)} were heard")
    return [
        at - datetime.fromisoformat(match[1].decode()).timestamp()
        for own in arrivals
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
