"""Live queries as server-sent events: one open answer for each.

`api/live.py` opens them. A stream takes from its watch when the socket has room, so a slow reader
gets larger differences and costs no memory. It must never give an id inside a group of events.
"""

from __future__ import annotations

from typing import Protocol

import anyio
import msgspec

from headwater.clock import Clock
from headwater.errors import HeadwaterError, ShuttingDown
from headwater.feeds import OpenStreams
from headwater.model import Library
from headwater.service.deltas import Deltas
from headwater.service.ingest import error_json
from headwater.service.live import LiveSearches, Prepared
from headwater.service.watch import Watch
from headwater.settings import FeedSettings

STILL_ALIVE = b": heartbeat\n\n"


class Sink(Protocol):
    """The way to one client."""

    async def send(self, piece: bytes) -> None:
        """Return when the socket has taken all but a bounded rest; raise when it takes nothing."""
        ...


class LiveStreams:
    """Loop only."""

    def __init__(
        self, live: LiveSearches, settings: FeedSettings, clock: Clock, *, limit: int
    ) -> None:
        self._live = live
        self._settings = settings
        self._clock = clock
        self.streams = OpenStreams("live searches", limit)

    async def sse(self, library: Library, query: Prepared, after: str | None, sink: Sink) -> None:
        """Speak until it is cancelled, stopped, too old, or the query cannot be kept.

        `snapshot` and `ready`, or the difference since `after` and `ready`; then what changes.
        `error` or `goodbye` last.
        """
        retry = b"retry: %d\n" % self._settings.retry_ms
        last: dict[str, str] = {}
        reason = "stopping"
        failure: HeadwaterError | None = None
        with self.streams.open() as scope:
            try:
                async with self._live.watch(library, query, after=after) as watch:
                    await sink.send(retry + b"\n")
                    try:
                        reason = await self._tell(watch, sink)
                    finally:
                        if watch.cursor:
                            last["cursor"] = watch.cursor
            except ShuttingDown:
                pass
            except HeadwaterError as error:
                failure = error
        with anyio.move_on_after(1, shield=scope.cancel_called):
            if failure is not None:
                await sink.send(_frame("error", msgspec.json.encode(error_json(failure))))
            else:
                words = msgspec.json.encode({**last, "reason": reason})
                await sink.send(retry + _frame("goodbye", words))

    async def _tell(self, watch: Watch, sink: Sink) -> str:
        """Tell what there is, over and over; the reason for the end is its age."""
        settings, now_s = self._settings, self._clock.monotonic
        sent_s = told_s = now_s()
        ends_s = sent_s + settings.max_age.total_seconds()
        progress_s = settings.progress.total_seconds()
        heartbeat_s = settings.heartbeat.total_seconds()
        while now_s() < ends_s:
            deltas = await watch.take()
            if deltas is None and now_s() >= told_s + progress_s:
                deltas = watch.progress()
                told_s = now_s()
            if deltas is not None:
                await self._send(deltas, sink)
                sent_s = told_s = now_s()
                continue
            if now_s() >= sent_s + heartbeat_s:
                await sink.send(STILL_ALIVE)
                sent_s = now_s()
            due_s = min(ends_s, sent_s + heartbeat_s, told_s + progress_s)
            with anyio.move_on_after(due_s - now_s()):
                await watch.wait()
        return "max_age"

    async def _send(self, deltas: Deltas, sink: Sink) -> None:
        """All events of a cursor, the id with the last: nobody resumes inside a group."""
        write_bytes = self._settings.write_bytes
        pieces: list[bytes | memoryview] = []
        size = 0
        for number, told in enumerate(deltas.events, 1):
            last = number == len(deltas.events)
            head = b"event: %b\ndata: " % told.event.encode()
            pieces.append(b"id: %b\n%b" % (deltas.cursor.encode(), head) if last else head)
            data = memoryview(told.data)
            for at in range(0, len(data), write_bytes):
                pieces.append(data[at : at + write_bytes])
                size += len(pieces[-1])
                if size >= write_bytes:
                    await sink.send(b"".join(pieces))
                    pieces, size = [], 0
            pieces.append(b"\n\n")
        await sink.send(b"".join(pieces))


def _frame(event: str, data: bytes) -> bytes:
    """WHATWG HTML, section 9.2."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
