"""The feed: opens event streams and pages over the log, and knows how they are doing.

`api` asks it; it follows `changes/log.py`. It must never hold an event that is not in the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import msgspec

from headwater.changes.log import Log
from headwater.clock import Clock
from headwater.errors import CursorExpired
from headwater.feeds.event import Event
from headwater.feeds.open_streams import OpenStreams
from headwater.feeds.reader import FeedReader, Frames, Piece, RenderDocuments, Wish, read_events
from headwater.feeds.statistics import FeedStatistics
from headwater.model import Committed, Cursor, Position
from headwater.settings import FeedSettings

Send = Callable[[bytes], Awaitable[None]]

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
        self._readers: set[FeedReader] = set()
        log.on_news(self._count)

    def _count(self, committed: Committed | None) -> None:
        if committed is not None:
            self.statistics.publish_rate.add(len(committed.changes))

    def reader(self, wish: Wish, cursor: Cursor) -> FeedReader:
        return FeedReader(
            self.log,
            self.frames,
            wish,
            cursor,
            page=self.settings.page_changes,
            write_bytes=self.settings.write_bytes,
        )

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

    async def sse(self, wish: Wish, after: Cursor, send: Send) -> None:
        """Speak an event stream until it is cancelled, stopped, too old or expired.

        `ready` first; then events in log order, each once; `progress` while nothing matches;
        comments while nothing happens; `reset` or `goodbye` last.
        """
        settings = self.settings
        started_s = self._clock.monotonic()
        reader = self.reader(wish, after)
        self._readers.add(reader)
        reason = "stopping"
        try:
            with self.streams.open() as scope:
                await send(b"retry: %d\n" % settings.retry_ms + _control("ready", after))
                reason = await self._tell(reader, send, started_s)
            if scope.cancelled_caught or reason != "expired":
                goodbye = b"retry: %d\n" % settings.retry_ms + _control(
                    "goodbye", self.log.cursor(reader.told), reason=reason
                )
                with anyio.move_on_after(1, shield=True):
                    await send(goodbye)
        except Exception:
            self.statistics.errors += 1  # it reads nothing any more, or worse; the caller knows
            raise
        finally:
            self._readers.discard(reader)

    async def _tell(self, reader: FeedReader, send: Send, started_s: float) -> str:
        settings = self.settings
        heartbeat_s = settings.heartbeat.total_seconds()
        progress_s = settings.progress.total_seconds()
        ends_s = started_s + settings.max_age.total_seconds()
        told_s = sent_s = started_s
        while True:
            piece: Piece | None = None
            now_s = self._clock.monotonic()
            if now_s >= ends_s:
                return "max_age"
            try:
                if reader.behind:
                    piece = await reader.next()
                else:
                    with anyio.move_on_after(min(heartbeat_s, ends_s - now_s)):
                        piece = await reader.next()
            except CursorExpired as error:
                await send(reset(error))
                return "expired"
            now_s = self._clock.monotonic()
            if piece is not None and piece.count:
                await send(piece.body)
                self.statistics.told(piece.count)
                reader.told, told_s = piece.through, now_s
                sent_s = self._clock.monotonic()
            elif reader.position > reader.told and now_s - told_s >= progress_s:
                cursor = self.log.cursor(reader.position)
                await send(b"id: %b\n" % str(cursor).encode() + _control("progress", cursor))
                reader.told = reader.position
                told_s = sent_s = now_s
            elif now_s - sent_s >= heartbeat_s * 0.9:
                await send(STILL_ALIVE)
                sent_s = now_s

    def snapshot(self, earliest: Position) -> dict[str, Any]:
        """The figures of `/v1/events/statistics`. Counted in this process since it started."""
        statistics, head = self.statistics, self.log.head
        return {
            "running": not self.streams.stopping,
            "total_published": self.log.published,
            "total_delivered": statistics.delivered,
            "total_errors": statistics.errors,
            "pending_events": sum(max(0, head - reader.position) for reader in self._readers),
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
