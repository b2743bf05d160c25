"""One segment for the head and the body of an answer.

uvicorn writes an answer's head and its body apart, and each write is a system call that wakes the
client: on small answers the two were a third of the loop's time. `server.py` gives this protocol
to uvicorn. It holds back what is written within one turn of the loop, and nothing longer.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class JoinedWrites:
    """A transport that sends what one turn of the loop wrote as one piece.

    Everything but writing and closing is the transport's own. The transport's flow control is kept:
    it speaks at the end of the turn.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():  # the client may have left meanwhile
            self._transport.write(pieces[0] if len(pieces) == 1 else b"".join(pieces))


class JoinedWritesProtocol(HttpToolsProtocol):
    """uvicorn's own HTTP protocol, speaking through `JoinedWrites`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(cast(asyncio.Transport, JoinedWrites(transport, self.loop)))
