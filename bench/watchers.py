"""Thousands of live queries over a few WebSockets, read by one process of its own.

It notes when each piece came; which `enter`s are in them is worked out afterwards.
"""

from __future__ import annotations

import re
import selectors
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection as Pipe

from bench.apart import PIECE_BYTES, Apart, Arrivals, rest, say
from bench.websocket import WebSocket, masked, request

_LIVE = re.compile(rb'"type":"live"')
_ENTER = re.compile(rb'"event":"enter".*?"document_id":"([^"]+)"')
_AT_ONCE = 16
_ALIVE_SECONDS = 10
"""How often it says that it is alive; it looks for no pings."""


@dataclass(frozen=True, slots=True)
class Entered:
    """Document and arrival (Unix seconds) of each `enter`; `frames` counts all that came."""

    documents: list[str]
    at: list[float]
    frames: int


class Watchers(Apart):
    """`with Watchers(…) as watchers`: every query has had its snapshot on entering."""

    def __init__(self, port: int, library: str, queries: list[str], sockets: int, k: int) -> None:
        super().__init__(_watch, port, library, queries, sockets, k, ready_seconds=600)

    @property
    def opened_seconds(self) -> float:
        """How long it took until every query had had its snapshot."""
        seconds: float = self.ready
        return seconds

    def collect(self, *, quiet_seconds: float = 2.0) -> Entered:
        """Wait until nothing has come for so long; what came since the last call."""
        entered: Entered = self.asked(quiet_seconds, 600)
        return entered


def _watch(pipe: Pipe, port: int, library: str, queries: list[str], sockets: int, k: int) -> None:
    began = time.perf_counter()
    shares = [queries[number::sockets] for number in range(sockets)]
    with ThreadPoolExecutor(sockets) as pool:
        opened = list(pool.map(partial(_open, port, library, k), shares))
    rest()
    say(pipe, time.perf_counter() - began)
    _Reading(opened, pipe).run()


def _open(port: int, library: str, k: int, queries: list[str]) -> WebSocket:
    """A socket whose queries have all had their snapshots."""
    opened = WebSocket(port, f"/v1/libraries/{library}/ws")
    ready = sent = 0
    while ready < len(queries):
        while sent < len(queries) and sent < ready + _AT_ONCE:
            opened.send(request("watch", sent, {"query": queries[sent], "k": k}))
            sent += 1
        head = opened.receive()[:200]
        if b'"success":false' in head:
            raise RuntimeError(head.decode())
        ready += b'"event":"ready"' in head
    opened.socket.setblocking(False)
    return opened


class _Reading:
    def __init__(self, sockets: list[WebSocket], pipe: Pipe) -> None:
        self._sockets = sockets
        self._pipe = pipe
        self._arrivals = [Arrivals() for _ in sockets]
        self._last = time.monotonic()

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        for number, one in enumerate(self._sockets):
            selector.register(one.socket, selectors.EVENT_READ, number)
        alive = time.monotonic()
        quiet_seconds: float | None = None
        while True:
            for key, _ in selector.select(0.05):
                piece = self._sockets[key.data].socket.recv(PIECE_BYTES)
                if not piece:
                    raise RuntimeError("the server closed a socket")
                self._arrivals[key.data].take(piece)
                self._last = time.monotonic()
            if time.monotonic() > alive + _ALIVE_SECONDS:
                alive = time.monotonic()
                for one in self._sockets:
                    one.send(masked(b"", 10))
            if quiet_seconds is None and self._pipe.poll():
                quiet_seconds = self._pipe.recv()
            if quiet_seconds is not None and time.monotonic() > self._last + quiet_seconds:
                say(self._pipe, self._collected())
                quiet_seconds = None

    def _collected(self) -> Entered:
        arrivals, self._arrivals = self._arrivals, [Arrivals() for _ in self._sockets]
        entered = sorted(
            (at, match[1].decode()) for own in arrivals for match, at in own.found(_ENTER)
        )
        frames = sum(1 for own in arrivals for _ in own.found(_LIVE))
        return Entered([document for _, document in entered], [at for at, _ in entered], frames)
