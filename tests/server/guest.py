"""Somebody in a session, over a real WebSocket: `websockets`' client, read by the test's thread."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

from service.session_view import SessionView
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

Json = dict[str, Any]
PATIENCE_S = 20.0


class Guest(SessionView):
    """Joins when made. Everything that comes is applied to the view, whoever reads it.

    `buffer_bytes` is what the system may hold of it unread.
    """

    def __init__(
        self,
        url: str,
        session: str,
        name: str,
        library: str | None = None,
        *,
        buffer_bytes: int | None = None,
        **params: str,
    ) -> None:
        super().__init__()
        asked = {"display_name": name, **params}
        if library is not None:
            asked["library"] = library
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(open_socket(url, session, asked, buffer_bytes))
        self.welcome = self.read()
        assert self.welcome["event"] == "welcome", self.welcome
        assert self.read()["type"] == "state"
        self._ids = itertools.count(1)
        self._events_seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    @property
    def person_id(self) -> str:
        id: str = self.welcome["person_id"]
        return id

    @property
    def process(self) -> str:
        """The server process that holds this connection."""
        process: str = self.people[self.person_id]["process"]
        return process

    def read(self) -> Json:
        frame: Json = json.loads(self.socket.recv(timeout=PATIENCE_S))
        self.apply(frame)
        return frame

    def until(self, condition: Callable[[], object]) -> None:
        """Read on until `condition()` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.frames[-5:]
            self.read()

    def event(self) -> Json:
        """The next change of the session that has not been asked for here yet."""
        while True:
            events = [frame["event"] for frame in self.frames if frame["type"] == "event"]
            if len(events) > self._events_seen:
                self._events_seen += 1
                event: Json = events[self._events_seen - 1]
                return event
            self.read()

    def sees(self, *names: str) -> None:
        self.until(lambda: self.names == list(names))

    def finds(self, *documents: str) -> None:
        self.until(lambda: self.found == list(documents))

    def send(self, action: str, **data: Any) -> int:
        id = next(self._ids)
        frame = {"type": "request", "action": action, "request_id": id, "data": data}
        self.socket.send(json.dumps(frame))
        return id

    def response(self, id: int) -> Json:
        """The response to that request; what comes before it is applied."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            frame = self.read()
            if frame["type"] == "response" and frame["request_id"] == id:
                return frame
            assert time.monotonic() < deadline

    def do(self, action: str, **data: Any) -> Json:
        """Ask and have the answer's data."""
        answer = self.response(self.send(action, **data))
        assert answer["success"], answer
        done: Json = answer["data"]
        return done

    def refused(self, action: str, **data: Any) -> Json:
        """Ask and have the error."""
        answer = self.response(self.send(action, **data))
        assert not answer["success"], answer
        error: Json = answer["error"]
        return error

    def ask(self, **query: Any) -> None:
        """Ask something for everybody, and have its results."""
        revised = self.do("revise", base_revision=self.query["revision"], query=query)
        self.until(lambda: self.results_revision == revised["revision"])

    def say(self, data: Any) -> None:
        self.socket.send(json.dumps({"type": "message", "data": data}))

    def hears(self, count: int = 1) -> list[Any]:
        """The data of the messages of others, once there are so many."""
        self.until(lambda: len(self.messages) >= count)
        return [message["data"] for message in self.messages]

    def closed(self) -> tuple[int | None, Json]:
        """Read to the end: the close code, and the last frame."""
        try:
            while True:
                self.read()
        except ConnectionClosed as closed:
            code = None if closed.rcvd is None else closed.rcvd.code
            return code, self.frames[-1]

    def cut(self) -> None:
        """Drop the connection as a machine does that loses its power: with a reset, no goodbye."""
        raw = self.socket.socket
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.shutdown(socket.SHUT_RDWR)  # ends the thread that reads
        raw.close()

    def fall_silent(self) -> None:
        """Answer nothing any more, not even pings, and keep the connection open."""
        self.socket.protocol.data_to_send = list  # type: ignore[method-assign]  # a silent one


def open_socket(
    url: str, session: str, asked: dict[str, str], buffer_bytes: int | None = None
) -> AbstractContextManager[ClientConnection]:
    """A socket on a session, to be entered; before anything was said."""
    address = url.replace("http://", "ws://")
    path = f"/v1/sessions/{quote(session, safe='')}?{urlencode(asked)}"
    parts = urlsplit(url)
    raw = socket.socket()
    if buffer_bytes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    raw.connect((parts.hostname, parts.port))
    return connect(address + path, sock=raw, proxy=None, max_size=None)


def turned_away(url: str, session: str, **asked: str) -> tuple[int | None, Json]:
    """The close code and the error of a socket that may not join."""
    with open_socket(url, session, asked) as opened:
        error: Json = json.loads(opened.recv(timeout=PATIENCE_S))
        try:
            opened.recv(timeout=PATIENCE_S)
        except ConnectionClosed as closed:
            return (None if closed.rcvd is None else closed.rcvd.code), error
    raise AssertionError("it was let in")
