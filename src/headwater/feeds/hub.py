"""The feed: opens event streams and pages over the log, and knows how they are doing.

`api` asks it; it follows `changes/log.py`. It must never hold an event that is not in the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import anyio.abc
import msgspec

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import CursorExpired
from headwater.feeds.event import Event
from headwater.feeds.listener import Listener, StreamOutlet
from headwater.feeds.open_streams import OpenStreams
from headwater.feeds.pump import Pump
from headwater.feeds.reader import FeedReader, Frames, RenderDocuments, Wish, read_events
from headwater.feeds.statistics import FeedStatistics
from headwater.model import Committed, Cursor, Position
from headwater.settings import FeedSettings

FRAME_CACHE_BYTES = 32 << 20
STILL_ALIVE = b": heartbeat\n\n"


@dataclass(frozen=True, slots=True)
class EventPage:
    events: list[Event]
    cursor: Cursor


class Hub:
    """Event streams and pages. Loop only."""

    def __init__(
        self, log: Log, settings: FeedSettings, clock: Clock, render: RenderDocuments
    ) -> None:
        self.log = log
        self.settings = settings
        self.statistics = FeedStatistics(clock)
        self.streams = OpenStreams("event streams", settings.max_subscribers)
        self.frames = Frames(log, render, FRAME_CACHE_BYTES)
        self._clock = clock
        self._listeners: set[Listener] = set()
        self._pump = Pump(log, self.frames, settings, clock, self.statistics)
        log.on_news(self._count)

    def _count(self, committed: Committed | None) -> None:
        if committed is not None:
            self.statistics.publish_rate.add(len(committed.changes))

    def reader(self, wish: Wish, cursor: Cursor, *, page: int | None = None) -> FeedReader:
        return FeedReader(
            self.log,
            self.frames,
            wish,
            cursor,
            page=min(page or self.settings.page_changes, self.settings.page_changes),
            write_bytes=self.settings.write_bytes,
        )

    async def park(self, listener: Listener) -> None:
        """Leave a listener at the head to the pump; see `Pump.park`."""
        await self._pump.park(listener)

    async def page(self, wish: Wish, after: Cursor, limit: int, wait: timedelta) -> EventPage:
        """At most about `limit` events after `after`; waits up to `wait` while there are none.

        The page's cursor goes on where the page ends, also when it is empty. One change expanded
        into chunk events is never split over two pages. Raises `CursorExpired`.
        """
        cursor = after
        ends_s = self._clock.monotonic() + wait.total_seconds()
        while True:
            told, through = await read_events(self.log, self.frames, wish, cursor, limit)
            cursor = self.log.cursor(max(through, cursor.position))
            if told:
                self.statistics.told(len(told))
                return EventPage(told, cursor)
            if cursor.position >= self.log.head:
                with anyio.move_on_after(ends_s - self._clock.monotonic()) as scope:
                    await self.log.bell.wait_past(cursor.position)
                if scope.cancelled_caught:
                    return EventPage([], cursor)

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Tell the listeners at the head, until cancelled."""
        await self._pump.run(task_status=task_status)

    async def sse(self, wish: Wish, after: Cursor, outlet: StreamOutlet) -> None:
        """Speak an event stream until it is cancelled, stopped, too old or expired.

        `ready` first; then events in log order, each once; `progress` while nothing matches;
        comments while nothing happens; `reset` or `goodbye` last.
        """
        now_s = self._clock.monotonic()
        listener = Listener(
            self.reader(wish, after),
            outlet,
            ends_s=now_s + self.settings.max_age.total_seconds(),
            told=after.position,
            told_s=now_s,
            sent_s=now_s,
        )
        retry = b"retry: %d\n" % self.settings.retry_ms
        reason = "stopping"
        self._listeners.add(listener)
        try:
            with self.streams.open() as scope:
                await outlet.send(retry + _control("ready", after))
                reason = await self._tell(listener, outlet)
            if scope.cancelled_caught or reason != "expired":
                with anyio.move_on_after(1, shield=True):
                    await listener.finish()
                    unheard = listener.told == after.position
                    told = after if unheard else self.log.cursor(listener.told)
                    await outlet.send(retry + _control("goodbye", told, reason=reason))
        except Exception:
            self.statistics.errors += 1  # it reads nothing any more, or worse; the caller knows
            raise
        finally:
            listener.abandon()
            self._listeners.discard(listener)

    async def _tell(self, listener: Listener, outlet: StreamOutlet) -> str:
        """Tell what there is, then leave the listener to the pump, over and over.

        Gives the reason for the end: `max_age` or `expired`.
        """
        reader = listener.reader
        while True:
            try:
                while reader.behind:
                    piece = await reader.next()
                    if piece.count:
                        await outlet.send(piece.body)
                        self.statistics.told(piece.count)
                        listener.sent(piece.through, self._clock.monotonic())
                    await self._speak_if_due(listener, outlet)
            except CursorExpired as error:
                await outlet.send(reset(error))
                return "expired"
            if self._clock.monotonic() >= listener.ends_s:
                return "max_age"
            await self._speak_if_due(listener, outlet)
            if reader.behind:
                continue  # something was committed meanwhile, and the pump may have passed
            await self._pump.park(listener)
            if listener.error is not None:
                raise listener.error
            if listener.rest is not None:
                await listener.finish()
                listener.sent(reader.position, self._clock.monotonic())

    async def _speak_if_due(self, listener: Listener, outlet: StreamOutlet) -> None:
        """Say how far a reader is for whom nothing matches, or that the stream is alive."""
        now_s = self._clock.monotonic()
        reader, settings = listener.reader, self.settings
        if reader.position > listener.told and (
            now_s >= listener.told_s + settings.progress.total_seconds()
        ):
            cursor = self.log.cursor(reader.position)
            await outlet.send(b"id: %b\n" % str(cursor).encode() + _control("progress", cursor))
            listener.sent(reader.position, now_s)
        elif now_s >= listener.sent_s + settings.heartbeat.total_seconds():
            await outlet.send(STILL_ALIVE)
            listener.sent_s = now_s

    def snapshot(self, earliest: Position) -> dict[str, Any]:
        """The figures of `/v1/events/statistics`. Counted in this process since it started."""
        statistics, head = self.statistics, self.log.head
        return {
            "running": not self.streams.stopping,
            "total_published": self.log.published,
            "total_delivered": statistics.delivered,
            "total_errors": statistics.errors,
            "pending_events": sum(
                max(0, head - listener.reader.position) for listener in self._listeners
            ),
            "subscriber_count": len(self.streams),
            "head": str(self.log.cursor(head)),
            "earliest": str(self.log.cursor(earliest)),
            "published_per_second": statistics.publish_rate.per_second(),
            "delivered_per_second": statistics.delivery_rate.per_second(),
            "ring_bytes": self.log.ring.size_bytes,
        }


def reset(error: CursorExpired) -> bytes:
    """The frame that tells a reader to start over from the current state."""
    data = {"code": error.code, "detail": error.detail, **error.fields}
    return b"event: reset\ndata: %b\n\n" % msgspec.json.encode(data)


def _control(name: str, cursor: Cursor, **fields: str) -> bytes:
    data = {"cursor": str(cursor), **fields}
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
