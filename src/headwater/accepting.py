"""Connections shared out among the workers of one server, a few at a time.

All workers accept from one listening socket. An event loop that wakes up takes everything that
waits there, so that a client's pool of connections, opened together, often ended in one worker
while the others idled: of eight connections all eight, in seven of twelve tries. Here a loop that
has taken a connection lets the others have a go before it takes the next.

`server.py` names `new_loop` to uvicorn where there are several workers. A connection that no worker
has taken yet waits in the socket, which the parent holds open while workers come and go.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import structlog

try:
    from uvloop import Loop as _Loop
except ImportError:  # there is none for Windows
    from asyncio import SelectorEventLoop as _Loop  # type: ignore[assignment] # has what is used

_REST_S = 0.002
"""How long a worker leaves what waits to the others once it has taken its share. If some is left
then, it takes one more than before: a thousand clients do not wait for a thousand rests."""

_LARGEST_SHARE = 64

_FULL_REST_S = 1.0
"""How long nothing is taken once the process has as many files open as it may."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = structlog.get_logger(__name__)

Factory = Callable[[], asyncio.BaseProtocol]


class SharingLoop(_Loop):
    """An event loop whose servers share the listening socket they are given."""

    async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        listener = options.get("sock")
        if listener is None:
            return await super().create_server(protocol_factory, *args, **options)
        return Accepting(self, protocol_factory, listener)


def new_loop() -> asyncio.AbstractEventLoop:
    return SharingLoop()


class Accepting:
    """A server of asyncio in what uvicorn asks of one. Owns the tasks that set connections up."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, protocol_factory: Factory, listener: socket.socket
    ) -> None:
        listener.setblocking(False)
        self._loop = loop
        self._protocol_factory = protocol_factory
        self._listener: socket.socket | None = listener
        self._share = 1
        self._rested_at = loop.time()
        self._beginning: set[asyncio.Task[None]] = set()
        loop.add_reader(listener, self._take)

    def _take(self) -> None:
        if self._loop.time() - self._rested_at > _REST_S:
            self._share = 1  # nothing waited while it rested
        for _ in range(self._share):
            if not self._take_one():
                return
        self._share = min(self._share + 1, _LARGEST_SHARE)
        self._rest(_REST_S)

    def _take_one(self) -> bool:
        """False when none waits, or no more can be taken for now."""
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was quicker, or the client is gone
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.warning("accept.exhausted", error=str(error))
            self._rest(_FULL_REST_S)
            return False
        connection.setblocking(False)
        # No task group: uvicorn has its servers outside of the application, and waits for this
        # one's tasks by `wait_closed`, as for its own.
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return True

    def _rest(self, seconds: float) -> None:
        assert self._listener is not None
        self._loop.remove_reader(self._listener)
        self._loop.call_later(seconds, self._go_on)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol_factory, connection)
        except OSError as error:
            connection.close()
            log.debug("accept.lost", error=str(error))

    def _go_on(self) -> None:
        if self._listener is not None:
            self._rested_at = self._loop.time()
            self._loop.add_reader(self._listener, self._take)

    def close(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener = None

    async def wait_closed(self) -> None:
        if self._beginning:
            await asyncio.wait(self._beginning)

    def is_serving(self) -> bool:
        return self._listener is not None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop
