"""A client of the feed: what it is sent through, how far it has been told, what is due next.

Belongs to the task of its stream; the pump works on it only while it is parked.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from headwater.feeds.reader import FeedReader, Piece
from headwater.feeds.row import Line, Row
from headwater.model import Position


class Outlet(Protocol):
    """The way to one client. Pieces arrive in the order they were given."""

    def offer(self, piece: Piece) -> Coroutine[Any, Any, None] | None:
        """Send at once when the socket takes it; else the rest of the sending, to be awaited.

        Nothing else may be sent before that rest is done. Raises `anyio.WouldBlock` when there
        is no room, and nothing was sent.
        """
        ...

    def line(self) -> Line | None:
        """The way for being told in a row with others, while it is open for that."""
        ...


class StreamOutlet(Outlet, Protocol):
    """One that takes whatever bytes it is given, sooner or later."""

    async def send(self, piece: bytes) -> None:
        """Return when the socket has taken all but a bounded rest; raise when it takes nothing."""
        ...


@dataclass(eq=False, slots=True)
class Listener:
    """`told` is behind `reader.position` while something is being sent, or nothing matched.

    While it stands in a row, they are where they were when it was settled last.
    """

    reader: FeedReader
    outlet: Outlet
    ends_s: float
    told: Position
    told_s: float
    sent_s: float
    parked: anyio.Event | None = None
    rest: Coroutine[Any, Any, None] | None = None
    error: Exception | None = None
    _row: Row[Listener] | None = None
    _line: Line | None = None
    _events: int = 0
    _size_bytes: int = 0

    def line_up(self, row: Row[Listener], line: Line) -> None:
        """Be told with others from now on; it stands where the row does."""
        self._row, self._line = row, line
        self._events, self._size_bytes = row.events, row.size_bytes
        row.join(self, line)

    def settle(self) -> None:
        """Take over what its row has been told."""
        row, line = self._row, self._line
        if row is None or line is None:
            return
        self.reader.position, self.told = row.position, row.told
        self.told_s = self.sent_s = row.told_s
        line.told(row.events - self._events, row.size_bytes - self._size_bytes)
        self._events, self._size_bytes = row.events, row.size_bytes

    def step_out(self) -> None:
        """Be told by itself again, if it is in a row."""
        self.settle()
        row, self._row, self._line = self._row, None, None
        if row is not None:
            row.step_out(self)

    def sent(self, through: Position, now_s: float) -> None:
        self.told = through
        self.told_s = self.sent_s = now_s

    def due_s(self, heartbeat_s: float, progress_s: float) -> float:
        """When something has to be said although there is no news, on the monotonic clock."""
        due_s = min(self.ends_s, self.sent_s + heartbeat_s)
        if self.reader.position > self.told:
            due_s = min(due_s, self.told_s + progress_s)
        return due_s

    async def finish(self) -> None:
        """Wait for the rest of what was offered, if there is one."""
        rest, self.rest = self.rest, None
        if rest is not None:
            await rest
            self.told = self.reader.position

    def abandon(self) -> None:
        """The client is gone, and with it the rest of what was offered."""
        if self.rest is not None:
            self.rest.close()

    def wake(self) -> None:
        """Give the listener back to its own task."""
        self.step_out()
        if self.parked is not None:
            self.parked.set()
            self.parked = None
