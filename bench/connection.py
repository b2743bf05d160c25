"""One blocking HTTP connection with as little machinery as possible.

For set-up, for samples and for the streams: whatever a measurement's clock must not wait for.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """A whole request, encoded."""
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\n"
    if body or method not in ("GET", "HEAD"):
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class Connection:
    """Kept open until closed; one call at a time."""

    def __init__(self, port: int, *, timeout: float | None = 300.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def call(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body; answers with a length only."""
        self.socket.sendall(request(method, path, body))
        head, rest = self._head()
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        pieces, missing = [rest], length - len(rest)
        while missing > 0:
            piece = self._receive(missing)
            pieces.append(piece)
            missing -= len(piece)
        return int(head[9:12]), b"".join(pieces)

    def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        status, answer = self.call(method, path, b"" if body is None else json.dumps(body).encode())
        if status >= 300:
            raise RuntimeError(f"{method} {path} answered {status}: {answer.decode()[:500]}")
        return json.loads(answer)

    def stream(self) -> Iterator[bytes]:
        """The raw pieces of an endless or chunked answer, from its head to its last chunk."""
        head, rest = self._head()
        if head[9:12] != b"200":
            raise RuntimeError(f"the stream was refused: {(head + rest).decode()[:800]}")
        piece = rest
        tail = b""
        while True:
            if piece:
                yield piece
                tail = (tail + piece)[-7:]
                if tail.endswith(b"\r\n0\r\n\r\n"):
                    return
            piece = self._receive(1 << 20)

    def _head(self) -> tuple[bytes, bytes]:
        seen = b""
        while b"\r\n\r\n" not in seen:
            seen += self._receive(65536)
        head, _, rest = seen.partition(b"\r\n\r\n")
        return head, rest

    def _receive(self, most: int) -> bytes:
        piece = self.socket.recv(most)
        if not piece:
            raise ConnectionError("the server closed the connection")
        return piece
