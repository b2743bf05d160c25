"""The application's end of a WebSocket: what it hears and says, in ASGI's words.

`socket_protocol.py` parses and sends. This keeps the messages that the application has not taken
yet, few as they are, and runs it. It must never outlive its connection by more than its cleanup.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import structlog

from headwater.api import problems
from headwater.api.socket.close import CloseCode

INBOX_MESSAGES = 8
"""Messages parsed ahead of the application; then the peer is not read."""

Asgi = dict[str, Any]
Headers = Iterable[tuple[bytes, bytes]]
App = Callable[[Asgi, Any, Any], Awaitable[None]]

log = structlog.get_logger(__name__)


class Line(Protocol):
    """The connection, as the application's end needs it."""

    @property
    def is_connecting(self) -> bool:
        """Whether the handshake has not been answered."""
        ...

    def accept(self, subprotocol: str | None, headers: Headers) -> None: ...

    def refuse(self, status: int, headers: Headers, body: bytes) -> None: ...

    def write(self, messages: Sequence[bytes]) -> None: ...

    def close(self, code: int, reason: str = "") -> None: ...

    def read_on(self) -> None:
        """There is room for another message."""
        ...


class ApplicationEnd:
    """Loop only. For one connection."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._inbox: deque[Asgi] = deque()
        self._arrival: asyncio.Future[None] | None = None
        self._path = ""
        self._answer: tuple[int, list[tuple[bytes, bytes]], bytes] | None = None

    @property
    def full(self) -> bool:
        return len(self._inbox) >= INBOX_MESSAGES

    def tell(self, message: Asgi) -> None:
        self._inbox.append(message)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def tell_end(self, code: int) -> None:
        """The connection is over, or about to be; only the first code counts."""
        if not self._inbox or self._inbox[-1]["type"] != "websocket.disconnect":
            self.tell({"type": "websocket.disconnect", "code": code})

    async def run(self, app: App, scope: Asgi) -> None:
        """Run `app` on the connection, and end that when it ends."""
        self._path = scope["path"]
        try:
            await app(scope, self._receive, self._say)
        except Exception as error:
            # The task's root: one connection's bug must not end the others.
            log.error("websocket.crashed", path=scope["path"], exc_info=error)
            self._line.close(CloseCode.INTERNAL, "a bug in the server; its log has the details")
        if self._line.is_connecting:
            self._line.refuse(500, (), b"")
        else:
            self._line.close(CloseCode.NORMAL)

    def _refuse(self) -> None:
        head = [(b"content-type", problems.MEDIA_TYPE.encode())]
        self._line.refuse(404, head, problems.no_such_socket(self._path))

    async def _receive(self) -> Asgi:
        while not self._inbox:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        message = self._inbox.popleft()
        if message["type"] == "websocket.disconnect":
            self._inbox.append(message)  # said again to whoever asks again
        else:
            self._line.read_on()
        return message

    async def _say(self, message: Asgi) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._line.accept(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close":
            if self._line.is_connecting:
                self._refuse()  # what routes a path that has no socket says no more than this
            else:
                self._line.close(message.get("code", 1000), message.get("reason") or "")
        elif kind == "websocket.send":
            text = message.get("text")
            if text is None:
                raise RuntimeError("this server sends text only")
            self._line.write([text.encode()])
        elif kind == "websocket.http.response.start":
            self._answer = (message["status"], list(message.get("headers", ())), b"")
        elif kind == "websocket.http.response.body" and self._answer is not None:
            status, headers, body = self._answer
            self._answer = (status, headers, body + message.get("body", b""))
            if not message.get("more_body", False):
                self._line.refuse(*self._answer)
        else:
            raise RuntimeError(f"{kind} was not expected")
