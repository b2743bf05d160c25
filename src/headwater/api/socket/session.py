"""Somebody's socket in a session: reads what they do, one thing after the other, and tells them
what everybody does.

Its tasks have one parent, `run`, and end with it. It keeps nothing: what is told comes from the
seat's mailbox, and what is done goes to `service/sessions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import structlog
from starlette.types import Receive

from headwater import __version__
from headwater.api.socket import frames
from headwater.api.socket import session_frames as own
from headwater.api.socket.bucket import Bucket
from headwater.api.socket.close import CloseCode, code_of
from headwater.api.socket.frames import RequestFrame
from headwater.api.socket.outbox import Outbox
from headwater.api.socket.requests import PingData, Pong
from headwater.api.socket.statistics import SocketStatistics
from headwater.api.socket.wire import SocketClosed, Wire
from headwater.changes import Log
from headwater.clock import Clock, rfc3339
from headwater.errors import (
    HeadwaterError,
    InvalidFrame,
    NotFound,
    RateLimited,
    UnknownAction,
)
from headwater.feeds import OpenStreams
from headwater.service.sessions import Sessions, Stay
from headwater.store.session_data import mark_data

log_line = structlog.get_logger(__name__)

WRITE_BYTES = 256 << 10
"""Handed to the socket at once, or one frame."""


class SessionSocket:
    """One person's connection, from the moment they have joined. Loop only."""

    def __init__(
        self,
        wire: Wire,
        receive: Receive,
        stay: Stay,
        sessions: Sessions,
        log: Log,
        clock: Clock,
        statistics: SocketStatistics,
        *,
        retry_ms: int,
    ) -> None:
        self.id = clock.uuid7()
        self._wire = wire
        self._receive = receive
        self._stay = stay
        self._sessions = sessions
        self._log = log
        self._clock = clock
        self._statistics = statistics
        self._retry_ms = retry_ms
        self._outbox = Outbox(wire, statistics)
        settings = sessions.settings
        self._requests = _bucket(settings.requests_per_second, clock)
        self._messages = _bucket(settings.messages_per_second, clock)

    async def run(self, streams: OpenStreams) -> str:
        """Serve until the client leaves or is put out, or `streams` are stopped.

        To be called right after `streams.check`.
        Gives the reason to tell the others. The socket is closed, or closing, when this returns,
        and no task of it is left.
        """
        reason = "left"
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._leave_with_client, tasks.cancel_scope)
                with streams.open() as stopping:
                    await self._outbox.send(self._welcome())
                    tasks.start_soon(self._tell)
                    await self._read()
                if stopping.cancelled_caught:
                    reason = "stopping"
                    self._say_goodbye()
                tasks.cancel_scope.cancel()
        except* SocketClosed:
            log_line.debug("session.client_gone", connection=self.id)
        return reason

    async def _leave_with_client(self, scope: anyio.CancelScope) -> None:
        await self._wire.wait_closed()
        scope.cancel()

    # ── Telling ─────────────────────────────────────────────────────────────────────────────────

    async def _tell(self) -> None:
        """Tell what the mailbox has as fast as the client takes it; close when there is no more."""
        seat, rooms, room = self._stay.seat, self._sessions.rooms, self._stay.room
        while seat.ended is None:
            await seat.mailbox.wait()
            async with self._outbox.turn():
                if seat.ended is None:
                    taken = seat.mailbox.take(lambda: rooms.state(room), WRITE_BYTES)
                    if taken:
                        self._outbox.put(*taken)
                        self._statistics.events += len(taken)
        self._statistics.errors[seat.ended.code] += 1
        gone = isinstance(seat.ended, NotFound)
        code = CloseCode.GONE if gone else code_of(seat.ended)
        if self._wire.writable:
            self._outbox.put(frames.error(seat.ended))
        self._wire.close(code, seat.ended.code)

    def _welcome(self) -> bytes:
        settings, stay, log = self._sessions.settings, self._stay, self._log
        session = stay.session
        return frames.encode(
            own.SessionWelcomeFrame(
                connection_id=self.id,
                person_id=stay.seat.person_id,
                session=own.SessionName(
                    session.id, session.name, session.library_id, session.library_name
                ),
                cursor=str(log.cursor(log.head)),
                server_time=rfc3339(self._clock.now_us()),
                version=__version__,
                limits=own.SessionLimits(
                    people=settings.people,
                    pins=settings.pins,
                    notes=settings.notes,
                    note_chars=settings.note_chars,
                    k=settings.k,
                    message_bytes=settings.message_bytes,
                    messages_per_second=settings.messages_per_second,
                    requests_per_second=settings.requests_per_second,
                ),
            )
        )

    def _say_goodbye(self) -> None:
        cursor = str(self._log.cursor(self._log.head))
        goodbye = own.SessionGoodbyeFrame(cursor=cursor, retry_ms=self._retry_ms)
        if self._wire.writable:
            self._outbox.put(frames.encode(goodbye))
        self._wire.close(CloseCode.GOING_AWAY, "the server stops")

    # ── Hearing ─────────────────────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        """Do what the client asks, one thing after the other, until it leaves."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return
            waits_s = 0.0
            try:
                frame = own.parse(_text(message))
                if isinstance(frame, own.MessageFrame):
                    waits_s = self._messages.take()
                    self._check_rate(waits_s, self._sessions.settings.messages_per_second)
                    self._sessions.pass_on(self._stay, frame.data)
                    continue
                waits_s = self._requests.take()
                self._check_rate(
                    waits_s,
                    self._sessions.settings.requests_per_second,
                    request_id=frame.request_id,
                )
                await self._answer(frame)
            except HeadwaterError as error:
                self._statistics.errors[error.code] += 1
                id = error.fields.pop("request_id", None)
                await self._outbox.send(
                    frames.error(error) if id is None else frames.failure(id, error)
                )
                if waits_s:
                    await anyio.sleep(waits_s)  # whoever goes on all the same is read no faster

    def _check_rate(self, waits_s: float, per_second: float, **fields: Any) -> None:
        if waits_s:
            raise RateLimited(
                f"more than {per_second:g} a second; this one was dropped, send the next ones "
                "more slowly",
                retry_after_ms=max(1, round(waits_s * 1000)),
                **fields,
            )

    async def _answer(self, frame: RequestFrame) -> None:
        """Answer one request. A failure is an answer too."""
        self._statistics.requests[frame.action] += 1
        try:
            data = await self._act(frame)
        except HeadwaterError as error:
            self._statistics.errors[error.code] += 1
            await self._outbox.send(frames.failure(frame.request_id, error))
        except Exception as error:  # the request's root: it fails, not the socket
            self._statistics.errors[HeadwaterError.code] += 1
            log_line.error("websocket.crashed", action=frame.action, exc_info=error)
            bug = HeadwaterError("a bug in the server; its log has the details")
            await self._outbox.send(frames.failure(frame.request_id, bug))
        else:
            await self._outbox.send(frames.response(frame.request_id, frames.encode(data)))

    async def _act(self, frame: RequestFrame) -> Any:
        sessions, stay, raw = self._sessions, self._stay, frame.data
        match frame.action:
            case "revise":
                change = own.read("revise", own.ReviseData, raw)
                revised = await sessions.revise(stay, change.base_revision, change.query)
                return own.Revised(revised.revision, str(self._log.cursor(revised.position)))
            case "pin" | "note" as kind:
                place = own.read(kind, own.PlaceData, raw)
                return mark_data(
                    await sessions.place(stay, kind, place.chunk_id, place.document_id, place.text)
                )
            case "edit_pin":
                pin = own.read("edit_pin", own.EditPinData, raw)
                return mark_data(
                    await sessions.revise_mark(stay, "pin", pin.pin_id, pin.base_revision, pin.text)
                )
            case "edit_note":
                note = own.read("edit_note", own.EditNoteData, raw)
                return mark_data(
                    await sessions.revise_mark(
                        stay, "note", note.note_id, note.base_revision, note.text
                    )
                )
            case "unpin":
                unpin = own.read("unpin", own.UnpinData, raw)
                position = await sessions.remove_mark(
                    stay, "pin", unpin.pin_id, unpin.base_revision
                )
                return own.Removed(str(self._log.cursor(position)))
            case "remove_note":
                gone = own.read("remove_note", own.RemoveNoteData, raw)
                position = await sessions.remove_mark(
                    stay, "note", gone.note_id, gone.base_revision
                )
                return own.Removed(str(self._log.cursor(position)))
            case "state":
                own.read("state", own.StateData, raw)
                stay.seat.mailbox.start_over()
                return own.StateComes()
            case "ping":
                own.read("ping", PingData, raw)
                cursor = str(self._log.cursor(self._log.head))
                return Pong(rfc3339(self._clock.now_us()), cursor)
            case unknown:
                raise UnknownAction(
                    f"there is no action {unknown[:80]!r}; known: {', '.join(own.SESSION_ACTIONS)}",
                    known=list(own.SESSION_ACTIONS),
                )


def _bucket(per_second: float, clock: Clock) -> Bucket:
    """Twice what a second may bring, at once."""
    return Bucket(per_second, max(1, round(2 * per_second)), clock)


def _text(message: Mapping[str, Any]) -> str:
    text = message.get("text")
    if not isinstance(text, str):
        raise InvalidFrame("binary messages are not understood; send JSON as text")
    return text
