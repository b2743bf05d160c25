"""The WebSocket protocol that `server.py` gives to uvicorn, on the parser of `websockets`.

uvicorn's own one answers a flood of pings without bound, parses a flood of small frames in one go,
gives up on a peer whose pong it does not read itself, and cuts a connection before the reason can
reach the peer. This one reads a little at a time and not at all while the peer takes nothing,
closes a peer that reads nothing for too long, and lingers until the close frame has arrived.
"""

from __future__ import annotations

import asyncio
import functools
import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, cast

import structlog
from anyio.abc import TaskGroup
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from headwater.api.socket.close import CloseCode
from headwater.api.socket.framing import framed
from headwater.api.socket.wire import SocketClosed, Wire
from headwater.joined_writes import JoinedWrites
from headwater.settings import WebSocketSettings
from headwater.socket_application import ApplicationEnd, Headers
from headwater.socket_handshake import answer, refusal, scope_of
from headwater.socket_messages import Assembly, Unfinished
from headwater.socket_timers import Timers

log = structlog.get_logger(__name__)

SLICE_BYTES = 4 << 10
"""Parsed at a time; some 700 frames of the smallest kind, a few milliseconds."""
FRAMES_IN_A_ROW = 64
"""Frames before others get a turn of the loop."""
JOINED_BYTES = 64 << 10
"""Frames up to this are copied into one write."""
LINGER_S = 2.0
"""How long a peer may take to answer a close frame before the connection is cut."""
LINGER_BYTES = 64 << 20
"""What it may still send meanwhile."""
STOP_S = 3.0
"""How long the application may take to close a socket when the server stops."""

SOCKETS = "sockets"
"""Where the lifespan's state has the task group that the connections' tasks belong to."""


class SocketProtocol(asyncio.Protocol, Wire):
    """One WebSocket connection, from its handshake on. Loop only.

    The application hears through ASGI and speaks through `Wire`.
    """

    writable = True

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: WebSocketSettings,
        unfinished: Unfinished,
    ) -> None:
        self._config = config
        self._server = server_state
        self._app_state = app_state
        self._settings = settings
        self._loop = _loop or asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # connection_made
        self._frames = ServerProtocol(max_size=settings.message_bytes)
        self._handshake: Response | None = None
        self._application = ApplicationEnd(self)
        self._rest = memoryview(b"")
        self._resuming = False
        self._assembly = Assembly(unfinished)
        self._reading = True
        self._tell_change: Callable[[], None] | None = None
        self._closed = asyncio.Event()
        self._speaks = False
        """Between the handshake and the first close frame, of whichever side."""
        self._ending = False
        self._lingered_bytes = 0
        self._written = self._received = 0
        self._taken = 0
        self._heard_s = self._loop.time()
        self._timers = Timers(self._loop)
        self._code = 1006
        self._ping_every, self._ping_timeout = settings.ping_every, settings.ping_timeout

    # ── The connection ──────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, JoinedWrites):
            transport = transport.released()
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)  # type: ignore[arg-type]  # of uvicorn's own kinds

    def connection_lost(self, error: Exception | None) -> None:
        self._speaks = False
        self._timers.clear()
        self._server.connections.discard(self)
        self._rest = memoryview(b"")
        self._assembly.clear()
        self._closed.set()
        self._application.tell_end(
            self._frames.close_rcvd.code if self._frames.close_rcvd else 1006
        )
        self._changed()

    def eof_received(self) -> None:
        """The peer has ended its side: the transport closes."""

    def shutdown(self) -> None:
        """uvicorn's call to stop: the application closes its sockets by itself, soon."""
        if self._handshake is None:
            self._transport.close()
        elif self._is_open:
            self._timers.set("stop", STOP_S, functools.partial(self.close, CloseCode.GOING_AWAY))

    @property
    def _is_open(self) -> bool:
        return self._frames.state is State.OPEN and not self._closed.is_set()

    # ── Reading ─────────────────────────────────────────────────────────────────────────────────

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self._heard_s = self._loop.time()
        if self._frames.state is State.CLOSING or self._frames.state is State.CLOSED:
            self._linger(data)
            return
        self._rest = memoryview(bytes(self._rest) + data if self._rest else data)
        self._parse()

    def _parse(self) -> None:
        """Parse until everything is parsed, the inbox is full, or others should have a turn."""
        frames = 0
        while self._rest and not self._application.full and self.writable and not self._ending:
            if frames >= FRAMES_IN_A_ROW:
                self._parse_soon()
                break
            piece, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
            self._frames.receive_data(bytes(piece))
            events = self._frames.events_received()
            if self._handshake is None and self._frames.handshake_exc is not None:
                self._refuse_handshake(self._frames.handshake_exc)
                return
            frames += len(events)
            for event in events:
                if isinstance(event, Request):
                    self._connect(event)
                else:
                    self._take(cast(Frame, event))
            if self._frames.parser_exc is not None:
                self._failed(self._frames.parser_exc)
                return
            self._flush()
            self._hold()
        self._steer()

    def _parse_soon(self) -> None:
        if not self._resuming:
            self._resuming = True
            self._loop.call_soon(self._parse_on)

    def _parse_on(self) -> None:
        self._resuming = False
        if self._closed.is_set():
            return
        if self._ending:
            self._linger_on()
        else:
            self._parse()

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._peer_closed()
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            try:
                message = self._assembly.take(frame)
            except UnicodeDecodeError:
                self._fail(CloseCode.INVALID_TEXT, "a text message must be UTF-8")
                return
            # Parsed together with a close frame, it has still come before it.
            if message is not None and not self._ending:
                kind = "text" if isinstance(message, str) else "bytes"
                self._application.tell({"type": "websocket.receive", kind: message})

    def _hold(self) -> None:
        """Too much kept of unfinished messages in all ends this one, unless it is small."""
        fits = self._assembly.hold(len(self._frames.reader.buffer))
        if not fits and self._assembly.held_bytes > SLICE_BYTES:
            self._fail(CloseCode.TRY_AGAIN_LATER, "too many large messages arrive at once")

    def _steer(self) -> None:
        """Read the peer only while there is room for what it says, and it takes what is said.

        What it says after a close frame of ours needs no room: it is only looked through.
        """
        has_room = not self._application.full and self.writable
        wanted = not self._rest and (has_room or self._ending)
        if wanted == self._reading or self._closed.is_set() or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._heard_s = self._loop.time()  # what it said meanwhile is only heard now
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # ── Writing ─────────────────────────────────────────────────────────────────────────────────

    @property
    def bytes_received(self) -> int:
        return self._received

    @property
    def bytes_sent(self) -> int:
        return self._written

    @property
    def close_code(self) -> int:
        return self._code

    def write(self, messages: Sequence[bytes]) -> None:
        if not self._is_open:
            raise SocketClosed
        parts = framed(messages)
        if sum(map(len, messages)) <= JOINED_BYTES:
            self._send(b"".join(parts))
        else:
            for part in parts:
                self._send(part)

    def write_framed(self, data: bytes) -> None:
        # For each event of each socket of a crowd: nothing here that can be done elsewhere.
        if not self._speaks:
            raise SocketClosed
        self._written += len(data)
        self._transport.write(data)

    @property
    def direct(self) -> Callable[[bytes], object]:
        return self._transport.write

    def count(self, size_bytes: int) -> None:
        self._written += size_bytes

    def on_change(self, tell: Callable[[], None]) -> None:
        self._tell_change = tell

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def pause_writing(self) -> None:
        self.writable = False
        self._changed()
        self._taken = self._taken_bytes()
        self._timers.set("stall", self._settings.stall.total_seconds(), self._check_stall)
        self._steer()

    def resume_writing(self) -> None:
        self.writable = True
        self._timers.cancel("stall")
        self.read_on()
        self._changed()

    def _taken_bytes(self) -> int:
        return self._written - self._transport.get_write_buffer_size()

    def _check_stall(self) -> None:
        taken = self._taken_bytes()
        if taken > self._taken:  # slowly, but it reads
            self._taken = taken
            self._timers.set("stall", self._settings.stall.total_seconds(), self._check_stall)
        else:
            log.info("websocket.stalled", waiting_bytes=self._transport.get_write_buffer_size())
            self.close(CloseCode.STALLED, "nothing was read for too long")

    def _send(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    def _flush(self) -> None:
        """Send what the parser has to say: pongs, an answer to a close, the end of the stream."""
        for data in self._frames.data_to_send():
            if self._transport.is_closing():
                return
            if data:
                self._send(data)
            else:
                self._transport.write_eof()

    def _changed(self) -> None:
        if self._tell_change is not None:
            self._tell_change()

    # ── Being alive ─────────────────────────────────────────────────────────────────────────────

    def keep_alive(self, every: timedelta, timeout: timedelta) -> None:
        self._ping_every, self._ping_timeout = every, timeout
        if "ping" in self._timers:
            self._timers.set("ping", every.total_seconds(), self._ping)

    def _ping(self) -> None:
        """Ask for a sign of life, and miss the one that should have come by now.

        What this side does not read, or could not send, is not held against the peer: the stall
        is watched for by itself.
        """
        if not self._is_open:
            return
        every_s = self._ping_every.total_seconds()
        late_s = every_s + self._ping_timeout.total_seconds()
        if self._reading and self._loop.time() - self._heard_s > late_s:
            self._fail(CloseCode.INTERNAL, "no answer to a ping")
            return
        if self.writable:
            self._frames.send_ping(struct.pack("!I", self._received & 0xFFFFFFFF))
            self._flush()
        self._timers.set("ping", every_s, self._ping)

    # ── Closing ─────────────────────────────────────────────────────────────────────────────────

    def close(self, code: int, reason: str = "") -> None:
        if not self._is_open:
            return
        self._frames.send_close(code, reason)
        self._flush()
        self._closing(code)

    def _fail(self, code: CloseCode, reason: str) -> None:
        """Close because of what the peer did; nothing it says after that is looked at."""
        if self._is_open:
            self._frames.fail(code, reason)
            self._flush()
            self._closing(code)

    def _failed(self, error: Exception) -> None:
        """The parser has given up, and has queued the close frame."""
        if self._handshake is None:
            self._refuse_handshake(error)
            return
        log.debug("websocket.failed", error=str(error), too_big=isinstance(error, PayloadTooBig))
        self._flush()
        sent = self._frames.close_sent
        self._closing(sent.code if sent is not None else 1006)

    def _closing(self, code: int) -> None:
        """A close frame is on its way: tell the application, wait for the peer, not for ever."""
        self._code = code
        self._speaks = False
        self._ending = True
        self._timers.cancel("ping", "stall", "stop")
        self._application.tell_end(code)
        self._assembly.clear()
        self._timers.set("linger", LINGER_S, self._transport.abort)
        self._changed()
        self._linger_on()

    def _linger(self, data: bytes) -> None:
        """Read on until the peer ends: closing with unread data would take the close frame away."""
        self._lingered_bytes += len(data)
        if self._lingered_bytes > LINGER_BYTES:
            self._transport.abort()
            return
        self._rest = memoryview(bytes(self._rest) + data if self._rest else data)
        self._linger_on()

    def _linger_on(self) -> None:
        """Look for the peer's close frame in what it had said before it heard of ours."""
        frames = 0
        while self._rest and self._frames.close_rcvd is None:
            if self._frames.state is not State.CLOSING or self._frames.eof_sent:
                self._rest = memoryview(b"")  # no frame is looked for any more
                break
            if frames >= FRAMES_IN_A_ROW:
                self._parse_soon()
                break
            piece, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
            self._frames.receive_data(bytes(piece))
            frames += len(self._frames.events_received())
        if self._frames.close_rcvd is not None:
            self._rest = memoryview(b"")
            self._transport.close()
        self._steer()

    def _peer_closed(self) -> None:
        received = self._frames.close_rcvd
        self._flush()
        self._closing(received.code if received is not None else 1005)
        self._transport.close()

    # ── The handshake and ASGI ──────────────────────────────────────────────────────────────────

    def _connect(self, request: Request) -> None:
        response = self._frames.accept(request)
        self._handshake = response
        if response.status_code != 101:
            self._refuse_handshake(self._frames.handshake_exc)
            return
        scope = scope_of(request, self._transport, self._config, self._app_state, self)
        self._application.tell({"type": "websocket.connect"})
        sockets: TaskGroup = self._app_state[SOCKETS]
        sockets.start_soon(self._application.run, self._config.loaded_app, scope)

    @property
    def is_connecting(self) -> bool:
        return self._frames.state is State.CONNECTING

    def read_on(self) -> None:
        if self._rest:
            self._parse_soon()
        else:
            self._steer()

    def accept(self, subprotocol: str | None, headers: Headers) -> None:
        if self._closed.is_set() or self._transport.is_closing():
            return
        response = self._handshake
        assert response is not None, "no handshake"
        del response.headers["Date"]
        if subprotocol:
            response.headers["Sec-WebSocket-Protocol"] = subprotocol
        for name, value in headers:
            response.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._frames.send_response(response)
        self._flush()
        self._speaks = True
        self._timers.set("ping", self._ping_every.total_seconds(), self._ping)

    def refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self._refuse(answer(status, headers, body))

    def _refuse_handshake(self, error: BaseException | None) -> None:
        self._refuse(refusal(self._handshake, error))

    def _refuse(self, whole_answer: bytes) -> None:
        """Answer the handshake as plain HTTP, and close."""
        if not self._transport.is_closing():
            self._send(whole_answer)
            self._transport.close()
        self._frames.state = State.CLOSED
        self._application.tell_end(1006)
