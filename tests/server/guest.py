"""Somebody in a session, over a real WebSocket: `websockets`' client, read by the test's thread."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Self
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from service.session_view import SessionView
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from headwater.api.socket.frames import ErrorFrame, FailureFrame, ResponseFrame
from headwater.api.socket.session_frames import (
    SESSION_ACTIONS,
    ChangeFrame,
    PassedOnFrame,
    ResultsFrame,
    SessionGoodbyeFrame,
    SessionWelcomeFrame,
    StateFrame,
)

Json = dict[str, Any]
PATIENCE_S = 20.0

DESCRIBED: dict[tuple[str, str | None], type[msgspec.Struct]] = {
    ("system", "welcome"): SessionWelcomeFrame,
    ("system", "goodbye"): SessionGoodbyeFrame,
    ("state", None): StateFrame,
    ("event", None): ChangeFrame,
    ("live", None): ResultsFrame,
    ("message", None): PassedOnFrame,
    ("response", None): ResponseFrame,
    ("error", None): ErrorFrame,
}


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
        self._actions: dict[int, str] = {}
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

    def __exit__(self, *_: object) -> None:
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
        text = self.socket.recv(timeout=PATIENCE_S)
        assert isinstance(text, str)
        frame: Json = json.loads(text)
        is_as_described(text, frame, self._actions.pop(frame.get("request_id", 0), None))
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
        self._actions[id] = action
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


def is_as_described(text: str, frame: Json, action: str | None) -> None:
    """Every frame has the members of its struct, from which `/asyncapi.json` is made; no other."""
    kind = DESCRIBED[frame["type"], frame.get("event") if frame["type"] == "system" else None]
    if frame["type"] == "response" and not frame["success"]:
        kind = FailureFrame
    again = json.loads(msgspec.json.encode(msgspec.json.decode(text, type=kind)))
    if "error" in frame:
        assert frame["error"].items() >= again["error"].items()  # some codes bring more
        again["error"] = frame["error"]
    assert again == frame
    if action is not None and "data" in frame:
        data = json.dumps(frame["data"]).encode()
        answer = msgspec.json.decode(data, type=SESSION_ACTIONS[action][1])
        assert json.loads(msgspec.json.encode(answer)) == frame["data"]


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
    # Without pings of its own: their thread outlives a connection that is cut, and takes random
    # numbers while another test is not to.
    return connect(address + path, sock=raw, proxy=None, max_size=None, ping_interval=None)


def turned_away(url: str, session: str, **asked: str) -> tuple[int | None, Json]:
    """The close code and the error of a socket that may not join."""
    with open_socket(url, session, asked) as opened:
        error: Json = json.loads(opened.recv(timeout=PATIENCE_S))
        try:
            opened.recv(timeout=PATIENCE_S)
        except ConnectionClosed as closed:
            return (None if closed.rcvd is None else closed.rcvd.code), error
    raise AssertionError("it was let in")
