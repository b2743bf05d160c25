"""All open sockets of this process: counted, bounded, and told when their library ends.

`routes.py` hands new ones over; `app.py` runs it and ends them all when the server stops.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.abc
import msgspec

from headwater.api.socket.close import code_of
from headwater.api.socket.connection import Connection, Handler, Receive
from headwater.api.socket.framing import SharedFrames
from headwater.api.socket.services import Services
from headwater.api.socket.statistics import SocketStatistics
from headwater.api.socket.wire import Wire
from headwater.errors import CursorExpired, HeadwaterError, LibraryNotFound, OriginRefused
from headwater.feeds import OpenStreams, Selection, Wish
from headwater.model import Cursor, Library

_DELETIONS = Wish(Selection(told=frozenset({"library.deleted"})), framing="apart")
_HERE = frozenset({"localhost", "127.0.0.1", "::1"})


class _About(msgspec.Struct):
    library_id: str


_about = msgspec.json.Decoder(_About).decode


class Sockets:
    """Loop only."""

    def __init__(self, services: Services, handlers: Mapping[str, Handler]) -> None:
        self.services = services
        self.statistics = SocketStatistics()
        self.streams = OpenStreams("WebSockets", services.settings.max_sockets)
        self._handlers = handlers
        self._shared = SharedFrames()
        self._connections: set[Connection] = set()

    async def run(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Close the sockets of libraries that are deleted, by whichever process."""
        log = self.services.log
        reader = self.services.hub.reader(_DELETIONS, log.cursor(log.head))
        async with anyio.create_task_group() as tasks:
            task_status.started()
            while True:
                try:
                    piece = await reader.next()
                except CursorExpired:
                    reader.stand(log.cursor(log.head))
                    await self._look_for_all(tasks)
                    continue
                for event in piece.events:
                    position = Cursor.parse(event.cursor, log_id=log.store.log_id).position
                    library_id = _about(event.json).library_id
                    for connection in list(self._connections):
                        if connection.library_id == library_id:
                            tasks.start_soon(connection.library_deleted, position)

    async def _look_for_all(self, tasks: anyio.abc.TaskGroup) -> None:
        """The log was trimmed past us: ask for each library whether it is still there."""
        for connection in list(self._connections):
            try:
                await self.services.libraries.fresh(connection.library_id)
            except LibraryNotFound:
                tasks.start_soon(connection.library_deleted, self.services.log.head)

    def check_origin(self, origin: str | None, host: str | None) -> None:
        """A web page may open a socket to its own host, from this machine, or when it is named.

        Browsers let every page open a socket to anywhere and say whose page it is (RFC 6455,
        section 10.2). Raises `OriginRefused`.
        """
        if origin is None:
            return
        page = urlsplit(origin)
        allowed = [part.strip() for part in self.services.settings.origins.split(",")]
        if (
            page.netloc == host
            or page.hostname in _HERE
            or any(part and fnmatch.fnmatchcase(origin, part) for part in allowed)
        ):
            return
        raise OriginRefused(
            f"pages of {origin[:200]} may not open a WebSocket here; name it in "
            "`websocket.origins` to allow it",
            origin=origin[:200],
        )

    async def serve(self, wire: Wire, receive: Receive, library: Library) -> None:
        """Serve an accepted socket until it is closed; call `streams.check` just before."""
        connection = Connection(
            wire,
            receive,
            library,
            self.services,
            self._handlers,
            self.statistics,
            self._shared,
        )
        with self.counted(wire):
            self._connections.add(connection)
            try:
                await connection.run(self.streams)
            finally:
                self._connections.discard(connection)

    @contextmanager
    def counted(self, wire: Wire) -> Iterator[None]:
        """Count an accepted socket, which is served within the block."""
        self.statistics.accepted += 1
        try:
            yield
        finally:
            self.statistics.bytes_received += wire.bytes_received
            self.statistics.bytes_sent += wire.bytes_sent
            self.statistics.closed[wire.close_code] += 1

    def refuse(self, error: HeadwaterError) -> int:
        """Count a socket that cannot be served; the code to close it with."""
        self.statistics.refused += 1
        self.statistics.errors[error.code] += 1
        return code_of(error)

    def snapshot(self) -> dict[str, Any]:
        """The figures of `/v1/websockets/statistics`."""
        open_ = self._connections
        channels = [each.subscription for one in open_ for each in one.subscriptions.values()]
        for subscription in channels:
            subscription.settle()  # else what its row was told is not counted yet
        counted = self.statistics
        received = counted.bytes_received + sum(one.wire.bytes_received for one in open_)
        sent = counted.bytes_sent + sum(one.wire.bytes_sent for one in open_)
        return {
            "running": not self.streams.stopping,
            "connections": len(open_),
            "subscriptions": len(channels),
            "watches": sum(len(one.watches) for one in open_),
            "requests_in_flight": sum(len(one.in_flight) for one in open_),
            "waiting_to_read": sum(not one.wire.writable for one in open_),
            "pending_events": sum(subscription.lag for subscription in channels),
            "unacked_events": sum(subscription.unacked for subscription in channels),
            "bytes_received": received,
            "bytes_sent": sent,
            **counted.snapshot(),
        }
