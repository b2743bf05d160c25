"""HTTP/1.1 over a bare socket, for what no polite client does.

Sends a body piece by piece while the answer is read, or not at all; stalls, halves, cuts.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Self
from urllib.parse import urlsplit

from server.dial import dial


class Conversation:
    """One request and its answer on a connection of its own.

    The body goes out chunked when `chunked` is true; `send` blocks as the socket does. Reading
    starts with `read_head`, or by itself with the first line. Every wait ends after `timeout`.
    """

    def __init__(
        self,
        url: str,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
        timeout: float = 30.0,
        receive_buffer: int | None = None,
    ) -> None:
        self.socket = dial(url, timeout=timeout, receive_buffer=receive_buffer)
        self.chunked = chunked
        self.status = 0
        self.headers: dict[str, str] = {}
        self._buffer = bytearray()
        self._text = bytearray()
        self._ended = False
        head = [f"{method} {path} HTTP/1.1", f"host: {urlsplit(url).netloc}"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if chunked:
            head.append("transfer-encoding: chunked")
        self.socket.sendall("\r\n".join([*head, "", ""]).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, piece: bytes) -> None:
        """Send a piece of the body."""
        if self.chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        self.socket.sendall(piece)

    def end(self) -> None:
        """Say that the body is complete."""
        if self.chunked:
            self.socket.sendall(b"0\r\n\r\n")

    def half_close(self) -> None:
        """Send no more, go on reading."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()

    def read_head(self) -> int:
        """The status of the next answer head, also of a `100 Continue`."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.lower(): value.strip() for name, _, value in pairs}
        return self.status

    def read_line(self) -> bytes | None:
        """The next line of the answer's body without its end, or None at the end of the body."""
        if not self.status or self.status == 100:
            self.read_head()
        while b"\n" not in self._text and not self._ended:
            self._decode()
        if not self._text:
            return None
        line, _, rest = bytes(self._text).partition(b"\n")
        self._text = bytearray(rest)
        return line

    def records(self) -> Iterator[dict[str, Any]]:
        """The JSON lines of the answer's body, to its end."""
        while (piece := self.read_piece()) is not None:
            for line in piece.splitlines():
                yield json.loads(line)

    def read_piece(self) -> bytes | None:
        """Whole lines, as many as have come; None at the end of the body."""
        if not self.status or self.status == 100:
            self.read_head()
        while b"\n" not in self._text and not self._ended:
            self._decode()
        if not self._text:
            return None
        end = self._text.rfind(b"\n") + 1 or len(self._text)
        piece = bytes(self._text[:end])
        del self._text[:end]
        return piece

    def _decode(self) -> None:
        """Move what has arrived from the buffer to the text; receive when there is too little."""
        if "content-length" in self.headers:
            missing = int(self.headers["content-length"])
            while len(self._buffer) < missing:
                self._receive()
            self._text += self._buffer[:missing]
            self._ended = True
            return
        assert self.headers.get("transfer-encoding") == "chunked", self.headers
        place = moved = 0
        while (end := self._buffer.find(b"\r\n", place)) >= 0:
            size = int(self._buffer[place:end], 16)
            if len(self._buffer) < end + size + 4:
                break
            self._text += self._buffer[end + 2 : end + 2 + size]
            place, moved = end + size + 4, moved + 1
            if size == 0:
                self._ended = True
                break
        del self._buffer[:place]
        if not moved:
            self._receive()

    def _receive(self) -> None:
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server closed the connection inside its answer")
        self._buffer += piece
