"""What one socket is sent, in the order of its importance, without ever being queued.

Answers go before events and live results. Whoever has something to send keeps it until the peer
takes it: an answer is held by its request, an event by the log, a live result by nobody. So a peer
that reads slowly costs the socket's buffer and what its own requests found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from headwater.api.socket.statistics import SocketStatistics
from headwater.api.socket.wire import Wire

FEEDS_AT_ONCE = 16
"""Subscriptions and live queries that put together their next piece at the same time."""


class Outbox:
    """Loop only. Everything raises `SocketClosed` once the socket is closed."""

    __slots__ = ("_answers", "_close_line", "_feeds", "_statistics", "_turns", "_wire")

    def __init__(
        self,
        wire: Wire,
        statistics: SocketStatistics,
        close_line: Callable[[], None] = lambda: None,
    ) -> None:
        """`close_line` is called whenever who writes by `direct` has to leave off."""
        self._wire = wire
        self._statistics = statistics
        self._answers: deque[anyio.Event] = deque()
        self._feeds: list[anyio.Event] = []
        self._turns = anyio.Semaphore(FEEDS_AT_ONCE)
        self._close_line = close_line
        wire.on_change(self._change)

    @property
    def ready(self) -> bool:
        """Whether events may be sent now."""
        return self._wire.writable and not self._answers

    def put(self, *messages: bytes) -> None:
        """Send at once: for those who have a turn, and for what is small and seldom."""
        self._wire.write(messages)

    def offer(self, data: bytes) -> None:
        """Send events at once that `framed` has framed already, without a turn.

        Raises `anyio.WouldBlock` when they may not be sent now.
        """
        if self._answers or not self._wire.writable:
            raise anyio.WouldBlock
        self._wire.write_framed(data)

    @property
    def direct(self) -> Callable[[bytes], object]:
        """Writes what `framed` has framed, for as long as it was `ready` and nobody left off.

        What was written so is to be counted by `count`.
        """
        return self._wire.direct

    def count(self, size_bytes: int) -> None:
        self._wire.count(size_bytes)

    async def send(self, *messages: bytes) -> None:
        """Send an answer, once the peer takes it; answers go in the order of their calls."""
        if not self.ready:
            turn = anyio.Event()
            self._answers.append(turn)
            try:
                await turn.wait()
            except BaseException:
                if turn.is_set():
                    self._wake()  # the turn was given and is not used
                else:
                    self._answers.remove(turn)
                raise
        self._wire.write(messages)
        self._wake()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn for one piece of events or live results. First come, first served."""
        async with self._turns:
            if not self.ready:
                self._statistics.fallbacks += 1
                while not self.ready:
                    room = anyio.Event()
                    self._feeds.append(room)
                    try:
                        await room.wait()
                    finally:
                        if room in self._feeds:
                            self._feeds.remove(room)
            yield

    def _change(self) -> None:
        self._close_line()
        self._wake()

    def _wake(self) -> None:
        """Give the next turn: to one answer, which passes on; else to all feeds that wait."""
        if not self._wire.writable:
            return
        if self._answers:
            self._answers.popleft().set()
            return
        feeds, self._feeds = self._feeds, []
        for room in feeds:
            room.set()
