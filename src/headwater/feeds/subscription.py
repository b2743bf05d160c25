"""A subscription: a reader of the feed that shares its way to the client with others.

It keeps a position and, when a window was asked for, the cursors that wait for their
acknowledgement. While the client has no room it is told nothing and keeps nothing: it reads on
from the log when there is room again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import anyio

from headwater.clock import Clock
from headwater.errors import InvalidCursor
from headwater.feeds.event import Event
from headwater.feeds.hub import Hub
from headwater.feeds.listener import Listener
from headwater.feeds.reader import Piece, Wish
from headwater.feeds.row import Line
from headwater.model import Cursor, Position

DOCUMENTS = 32
"""Changes read at once when their documents are wanted."""


class Voice(Protocol):
    """The way to the client, shared with others. What is told arrives in order."""

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for a turn: there is room then for one piece."""
        ...

    def tell(self, events: Sequence[Event]) -> None:
        """For who has a turn."""
        ...

    def tell_now(self, events: Sequence[Event]) -> None:
        """Without a turn. Raises `anyio.WouldBlock` when the client has no room, or somebody more
        important waits for it; nothing was told then.
        """
        ...

    def line(self) -> Line | None:
        """The way to the client for being told in a row with others, while that is open."""
        ...

    def progress(self, cursor: Cursor) -> None:
        """Say that nothing more is to be told up to there."""
        ...


class Subscription:
    """Loop only. An outlet of the pump while it stands at the head of the log.

    `wish` is framed `apart`. With `max_unacked`, at most so many events are told beyond the last
    acknowledged one.
    """

    __slots__ = (
        "_acked",
        "_awaited",
        "_clock",
        "_hub",
        "_listener",
        "_unacked",
        "_voice",
        "_window",
        "_write_bytes",
        "acked",
    )

    def __init__(
        self,
        hub: Hub,
        wish: Wish,
        after: Cursor,
        voice: Voice,
        clock: Clock,
        *,
        max_unacked: int | None = None,
    ) -> None:
        self._hub = hub
        self._voice = voice
        self._clock = clock
        self._write_bytes = hub.settings.write_bytes
        self._window = max_unacked
        self._unacked: deque[tuple[Position, int]] = deque()
        self._acked = anyio.Event()
        self._awaited: tuple[Position, anyio.Event] | None = None
        self.acked = after
        now_s = clock.monotonic()
        self._listener = Listener(
            hub.reader(wish, after, page=max_unacked or (DOCUMENTS if wish.documents else None)),
            self,
            ends_s=math.inf,
            told=after.position,
            told_s=now_s,
            sent_s=now_s,
        )

    @property
    def position(self) -> Position:
        """Everything up to there has been told, or is not wanted."""
        self._listener.settle()
        return self._listener.reader.position

    @property
    def cursor(self) -> Cursor:
        """Where to go on so that nothing is missed and nothing comes twice."""
        self._listener.settle()
        return self._listener.reader.cursor

    @property
    def unacked(self) -> int:
        """Events told and not acknowledged, when there is a window."""
        return len(self._unacked)

    @property
    def lag(self) -> int:
        """Changes that it has not looked at."""
        return max(0, self._hub.log.head - self.position)

    async def run(self) -> None:
        """Tell until cancelled. Raises `CursorExpired` when the log is trimmed past it."""
        reader, progress_s = self._listener.reader, self._hub.settings.progress.total_seconds()
        while True:
            while reader.behind and self._room:
                await self._tell_next()
            await self._progress_if_due(progress_s)
            if reader.behind and self._room:
                continue
            if self._window is None and self._awaited is None:
                await self._hub.park(self._listener)
                if self._listener.error is not None:
                    raise self._listener.error
            else:
                with anyio.move_on_after(progress_s):
                    if self._room:
                        await self._hub.log.bell.wait_past(reader.position)
                    else:
                        await self._acked.wait()

    def ack(self, cursor: Cursor) -> None:
        """All events up to `cursor` have been dealt with. Raises `InvalidCursor`."""
        place = (cursor.position, cursor.part)
        if cursor.position > self.position:
            raise InvalidCursor(
                f"cursor {cursor} is ahead of what this subscription was told; acknowledge the "
                "`id` of an event it has sent"
            )
        if place > (self.acked.position, self.acked.part):
            self.acked = cursor
        while self._unacked and self._unacked[0] <= place:
            self._unacked.popleft()
        self._acked.set()
        self._acked = anyio.Event()

    async def reached(self, position: Position) -> None:
        """Return once everything up to `position` has been told."""
        while self.position < position:
            reached = anyio.Event()
            self._awaited = (position, reached)
            self._listener.wake()  # the pump says nothing of what is not wanted
            await reached.wait()

    def step_out(self) -> None:
        """Be told by itself from now on: the client takes no more, or is to hear no more."""
        self._listener.step_out()

    def settle(self) -> None:
        """Have what it was told in a row counted, by itself and by its way to the client."""
        self._listener.settle()

    # ── As the pump sees it ─────────────────────────────────────────────────────────────────────

    def offer(self, piece: Piece) -> None:
        if piece.size_bytes > self._write_bytes and piece.count > 1:
            raise anyio.WouldBlock  # its own task tells it by turns, as its client takes it
        self._voice.tell_now(piece.events)

    def line(self) -> Line | None:
        return self._voice.line()

    # ────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _room(self) -> bool:
        return self._window is None or len(self._unacked) < self._window

    async def _tell_next(self) -> None:
        listener, reader = self._listener, self._listener.reader
        async with self._voice.turn():
            piece = await reader.next()
            events = self._fitting(piece.events)
            if self._window is not None and len(events) > self._window - len(self._unacked):
                events = events[: self._window - len(self._unacked)]
                reader.stand(Cursor.parse(events[-1].cursor, log_id=self._hub.log.store.log_id))
            if events:
                self._told(events)
                listener.sent(reader.position, self._clock.monotonic())
        self._arrive()

    def _fitting(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """As many as may be written at once, one at least; the reader stands behind the last.

        A piece can be large, with documents above all, and would be held for each client.
        """
        reader, size = self._listener.reader, 0
        for count, event in enumerate(events):
            size += len(event.json)
            if count and size > self._write_bytes:
                last = events[count - 1].cursor
                reader.stand(Cursor.parse(last, log_id=self._hub.log.store.log_id))
                reader.sip(count)
                return events[:count]
        reader.gulp()
        return events

    def _told(self, events: Sequence[Event]) -> None:
        self._voice.tell(events)
        self._hub.statistics.told(len(events))
        if self._window is not None:
            log_id = self._hub.log.store.log_id
            for event in events:
                cursor = Cursor.parse(event.cursor, log_id=log_id)
                self._unacked.append((cursor.position, cursor.part))

    def _arrive(self) -> None:
        if self._awaited is not None and self.position >= self._awaited[0]:
            self._awaited[1].set()
            self._awaited = None

    async def _progress_if_due(self, progress_s: float) -> None:
        listener, now_s = self._listener, self._clock.monotonic()
        listener.sent_s = now_s  # the socket's own pings are its heartbeats
        if self.position > listener.told and now_s >= listener.told_s + progress_s and self._room:
            async with self._voice.turn():
                self._voice.progress(self._hub.log.cursor(self.position))
            listener.sent(self.position, self._clock.monotonic())
