"""Answers that stream, in one or both directions, over plain ASGI.

Starlette's `StreamingResponse` watches for a disconnect by calling `receive()` and so eats the
request's body; a route that hears and speaks at once needs `Conversation`. It owns the socket's
two ends for as long as its `talk` runs, and must never buffer more than one piece of either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from types import coroutine
from typing import Any, cast

import anyio
import anyio.abc
import msgspec
import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from headwater.errors import HeadwaterError
from headwater.feeds.reader import Piece
from headwater.service.ingest import error_json

log = structlog.get_logger(__name__)


class ClientGone(Exception):
    """The other end has closed the connection."""

    def __init__(self) -> None:
        super().__init__("the client has closed the connection")


class ClientStalled(Exception):
    """The other end has read nothing for too long."""

    def __init__(self) -> None:
        super().__init__("the client has read nothing for too long")


class Inbound:
    """The request's body as it arrives. Raises `ClientGone` when it is cut off."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._first: Message | None = None
        self._opened = anyio.Event()
        self.ended = False

    async def open(
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Ask for the body; says started once it has been asked for, not once it is there."""
        task_status.started()
        self._first = await self._receive()
        self._opened.set()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, piece by piece. For one reader."""
        await self._opened.wait()
        while not self.ended:
            message, self._first = self._first or await self._receive(), None
            if message["type"] == "http.disconnect":
                raise ClientGone
            self.ended = not message.get("more_body", False)
            if body := message.get("body", b""):
                yield body

    async def gone(self) -> None:
        """Return when the client has closed the connection; skips what is left of the body."""
        await self._opened.wait()
        message = self._first or await self._receive()
        while message["type"] != "http.disconnect":
            message = await self._receive()


class Outbound:
    """The answer's body. `send` returns when the socket has taken all but a bounded rest."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def send(self, piece: bytes, *, stall: timedelta | None = None) -> None:
        """Send one piece; with `stall`, `ClientStalled` when that takes longer."""
        await _within(stall, self._send(_body(piece)))

    def offer(self, piece: bytes, *, stall: timedelta) -> Coroutine[Any, Any, None] | None:
        """Send one piece at once, or as much of the sending as goes without waiting.

        None when the socket has taken it; else the rest, to be awaited before anything else is
        sent. It raises `ClientStalled` when it takes longer than `stall`.
        """
        sending = cast(Coroutine[Any, None, None], self._send(_body(piece)))
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return None
        return _within(stall, _go_on(sending, waits_for))


def _body(piece: bytes) -> Message:
    return {"type": "http.response.body", "body": piece, "more_body": True}


async def _within(stall: timedelta | None, sending: Awaitable[None]) -> None:
    if stall is None:
        await sending
        return
    with anyio.move_on_after(stall.total_seconds()) as scope:
        await sending
    if scope.cancelled_caught:
        raise ClientStalled


@coroutine
def _go_on(sending: Coroutine[Any, None, None], waits_for: Any) -> Generator[Any, None, None]:
    """The rest of a coroutine that was begun outside of a task and waits for `waits_for`."""
    while True:
        try:
            yield waits_for
        except BaseException as error:  # noqa: BLE001 - a cancellation belongs to the coroutine
            step = partial(sending.throw, error)
        else:
            step = partial(sending.send, None)
        try:
            waits_for = step()
        except StopIteration:
            return


class EventOutlet:
    """An `Outbound` as the feed knows it: every sending is bounded by `stall`."""

    def __init__(self, outbound: Outbound, stall: timedelta) -> None:
        self._outbound = outbound
        self._stall = stall

    async def send(self, piece: bytes) -> None:
        await self._outbound.send(piece, stall=self._stall)

    def offer(self, piece: Piece) -> Coroutine[Any, Any, None] | None:
        return self._outbound.offer(piece.body, stall=self._stall)

    def line(self) -> None:
        """It has heartbeats of its own, and ends at its own age: it is told by itself."""


@asynccontextmanager
async def last_words(outbound: Outbound, stall: timedelta) -> AsyncIterator[None]:
    """What goes wrong inside becomes the stream's last line, as an HTTP problem would tell it."""
    failure: HeadwaterError | None = None
    try:
        yield
    except* HeadwaterError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, HeadwaterError)
        failure = error
    if failure is not None:
        line = {"type": "error", "error": error_json(failure)}
        await outbound.send(msgspec.json.encode(line) + b"\n", stall=stall)


Talk = Callable[[Inbound, Outbound], Awaitable[None]]


class Conversation(Response):
    """An answer that `talk` speaks while it may still be hearing the request's body.

    The head of the answer is sent once the body has been asked for, which makes the server send
    `100 Continue` first to clients that wait for it. When the client goes away `talk` is
    cancelled, or sees `ClientGone` if it is reading; either ends the answer quietly.
    """

    def __init__(
        self,
        talk: Talk,
        *,
        media_type: str,
        hears: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.body = b""
        self._talk = talk
        self._hears = hears
        self.init_headers(
            {"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {
            "type": "http.response.start",
            "status": self.status_code,
            "headers": [pair for pair in self.raw_headers if pair[0] != b"content-length"],
        }
        inbound, outbound = Inbound(receive), Outbound(send)
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(inbound.open)
                await send(start)
                if not self._hears:
                    tasks.start_soon(self._leave_with_client, inbound, tasks.cancel_scope)
                await self._talk(inbound, outbound)
                tasks.cancel_scope.cancel()
        except* ClientGone:
            log.debug("stream.client_gone", path=scope.get("path"))
        except* ClientStalled:
            log.info("stream.client_stalled", path=scope.get("path"))
        else:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    @staticmethod
    async def _leave_with_client(inbound: Inbound, scope: anyio.CancelScope) -> None:
        await inbound.gone()
        scope.cancel()
