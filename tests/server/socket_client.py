"""A WebSocket client for tests: `websockets` for what is right, bare frames for what is not.

`Socket` asks and sorts what comes; `BareSocket` sends bytes and tells what came back, close codes
included. Neither reads unless it is told to.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from urllib.parse import quote, urlsplit

from server.client import Json
from server.dial import dial
from websockets.sync.client import ClientConnection, connect

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0


def socket_url(url: str, library: str) -> str:
    return f"ws{url.removeprefix('http')}/v1/libraries/{quote(library, safe='')}/ws"


class Socket:
    """One open socket. `welcome` is its first frame; `waiting` holds frames nobody asked for."""

    def __init__(self, url: str, library: str, *, timeout: float = 30.0, **options: Any) -> None:
        self._timeout = timeout
        self._ids = itertools.count(1)
        self.waiting: list[Json] = []
        self._open = ExitStack()
        opening = connect(
            socket_url(url, library),
            subprotocols=options.pop("subprotocols", ["headwater.v1"]),
            compression=None,
            proxy=None,
            max_size=None,
            max_queue=None,  # or it would not read up to the end of a socket that it closes
            ping_interval=None,  # as in `guest.py`
            **options,
        )
        self.connection: ClientConnection = self._open.enter_context(opening)
        self.welcome = self._receive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._open.close()

    def send(self, action: str, data: Json | None = None, *, id: int | str | None = None) -> Any:
        """Send a request without waiting for its response; its id."""
        id = next(self._ids) if id is None else id
        frame = {"type": "request", "action": action, "request_id": id}
        self.connection.send(json.dumps(frame if data is None else frame | {"data": data}))
        return id

    def response(self, id: int | str) -> Json:
        """The response to that request, its parts put together; `parts` counts them."""
        parts: list[Json] = []
        while not parts or not parts[-1]["last"]:
            frame = self.next(lambda f: f["type"] == "response" and f["request_id"] == id)
            assert frame["part"] == len(parts)
            parts.append(frame)
        whole = parts[-1]
        if len(parts) > 1 and whole["success"]:
            for part in parts[:-1]:
                assert list(part["data"]) == ["results"]
            hits = [hit for part in parts for hit in part["data"]["results"]]
            whole = whole | {"data": whole["data"] | {"results": hits}}
        return whole | {"parts": len(parts)}

    def ask(self, action: str, **data: Any) -> Json:
        """What a request that succeeds is answered with."""
        response = self.response(self.send(action, data))
        assert response["success"], response
        found: Json = response["data"]
        return found

    def fail(self, action: str, **data: Any) -> Json:
        """The error of a request that fails."""
        response = self.response(self.send(action, data))
        assert not response["success"], response
        error: Json = response["error"]
        return error

    def next(self, wanted: Callable[[Json], bool] = lambda frame: True) -> Json:
        """The next frame that is wanted; the others wait until they are."""
        for at, frame in enumerate(self.waiting):
            if wanted(frame):
                return self.waiting.pop(at)
        while True:
            frame = self._receive()
            if wanted(frame):
                return frame
            self.waiting.append(frame)

    def events(self, subscription: str, count: int) -> list[Json]:
        """The next events of a subscription."""
        return [
            self.next(lambda f: f["type"] == "event" and f["subscription_id"] == subscription)[
                "event"
            ]
            for _ in range(count)
        ]

    def live(self, watch: str, count: int) -> list[Json]:
        """The next frames of a live query."""
        return [
            self.next(lambda f: f["type"] == "live" and f["watch_id"] == watch)
            for _ in range(count)
        ]

    def _receive(self) -> Json:
        frame: Json = json.loads(self.connection.recv(self._timeout))
        return frame


class BareSocket:
    """A TCP connection that has shaken hands, or not. For what no client library would send."""

    def __init__(
        self,
        url: str,
        library: str,
        *,
        handshake: bool = True,
        receive_buffer: int | None = None,
        timeout: float = 30.0,
        headers: str = "",
    ) -> None:
        self.socket = dial(url, timeout=timeout, receive_buffer=receive_buffer)
        self.head = b""
        self._rest = b""
        if handshake:
            key = base64.b64encode(os.urandom(16)).decode()
            path = f"/v1/libraries/{quote(library, safe='')}/ws"
            self.socket.sendall(
                (
                    f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nUpgrade: websocket\r\n"
                    f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    f"Sec-WebSocket-Key: {key}\r\n{headers}\r\n"
                ).encode()
            )
            while b"\r\n\r\n" not in self._rest:
                self._rest += self._more()
            self.head, _, self._rest = self._rest.partition(b"\r\n\r\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, action: str, id: int | str = 1, **data: Any) -> None:
        frame = {"type": "request", "action": action, "request_id": id, "data": data}
        self.send(frame_of(json.dumps(frame).encode()))

    def frame(self) -> tuple[int, bytes]:
        """The next frame of the server: opcode and payload. Raises `ConnectionError` at the end."""
        head = self._take(2)
        assert not head[1] & 0x80, "a server masks nothing"
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return head[0] & 0x0F, self._take(size)

    @property
    def begun(self) -> bool:
        """Whether some of the next frame has been read already."""
        return bool(self._rest)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Until the server closes the connection."""
        while True:
            try:
                yield self.frame()
            except ConnectionError:
                return

    def json(self) -> Json:
        """The next text frame."""
        while True:
            opcode, payload = self.frame()
            if opcode == TEXT:
                frame: Json = json.loads(payload)
                return frame
            assert opcode in (PING, PONG), (opcode, payload)

    def close_code(self) -> int:
        """Read on until the close frame; its code."""
        for opcode, payload in self.frames():
            if opcode == CLOSE:
                code: int = struct.unpack("!H", payload[:2])[0]
                return code
        raise AssertionError("the connection ended without a close frame")

    def reset(self) -> None:
        """Cut the connection as a crash does: nothing sent is waited for."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += self._more()
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _more(self) -> bytes:
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError("the server has closed the connection")
        return piece


def frame_of(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, masked: bool = True, size: int = -1
) -> bytes:
    """A client's frame; `size` lies about the payload's."""
    size = len(payload) if size < 0 else size
    head = bytes(((0x80 if fin else 0) | opcode,))
    bit = 0x80 if masked else 0
    if size < 126:
        head += bytes((bit | size,))
    elif size < 1 << 16:
        head += struct.pack("!BH", bit | 126, size)
    else:
        head += struct.pack("!BQ", bit | 127, size)
    if not masked:
        return head + payload
    key = b"\x37\xfa\x21\x3d"
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
    return head + key + hidden.to_bytes(len(payload), "big")


@contextmanager
def sockets(url: str, library: str, count: int, **options: Any) -> Iterator[list[Socket]]:
    """Several open sockets, closed at the end."""
    opened: list[Socket] = []
    try:
        for _ in range(count):
            opened.append(Socket(url, library, **options))
        yield opened
    finally:
        for one in opened:
            one.close()
