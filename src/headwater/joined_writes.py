"""One segment for the head and the body of an answer; an end for answers that nobody takes.

uvicorn writes an answer's head and its body apart, and each write is a system call that wakes the
client: on small answers the two were a third of the loop's time. `server.py` gives this protocol
to uvicorn. It holds back a head until its body comes, and never longer than one turn of the loop.

A stopping server waits for its connections. One whose client takes nothing would keep it until
uvicorn cancels what is left, with a traceback for each.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TAKES_NOTHING_S = 2.0
"""A client that has taken nothing for so long while the server stops is cut off."""


class JoinedWrites:
    """A transport that sends the head of an answer together with what follows it.

    Everything but writing and closing is the transport's own, flow control included.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._given_bytes = 0

    @property
    def taken_bytes(self) -> int:
        """What the system has taken of all that was written, on its way to the client."""
        return self._given_bytes - len(self._head) - self._transport.get_write_buffer_size()

    @property
    def waiting(self) -> bool:
        return self._transport.get_write_buffer_size() > 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._given_bytes += len(data)
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/"):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def released(self) -> asyncio.Transport:
        """The transport itself, for a protocol that answers no HTTP."""
        self._flush()
        return self._transport

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():  # the client may have left meanwhile
            self._transport.write(head)


class JoinedWritesProtocol(HttpToolsProtocol):
    """uvicorn's own HTTP protocol, speaking through `JoinedWrites`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        joined = JoinedWrites(cast(asyncio.Transport, transport), self.loop)
        super().connection_made(cast(asyncio.Transport, joined))

    def shutdown(self) -> None:
        """The server stops: end when the answer under way has been taken, or will not be."""
        super().shutdown()
        self._press(None)

    def _press(self, taken_bytes: int | None) -> None:
        """`taken_bytes` had been taken the last time it looked.

        What waits says nothing: as much may have come as has gone.
        """
        if self not in self.connections:
            return
        joined = cast(JoinedWrites, self.transport)
        if joined.waiting and joined.taken_bytes == taken_bytes:
            self.transport.abort()
        else:
            self.loop.call_later(_TAKES_NOTHING_S, self._press, joined.taken_bytes)
