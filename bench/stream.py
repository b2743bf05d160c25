"""A document stream in or out, over a blocking connection.

The body is encoded beforehand, sent by one thread and answered to another; neither looks at more
than line ends, so that both together cost a few per cent of a core.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.connection import Connection

_PIECE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Streamed:
    seconds: float
    first_seconds: float
    lines: int
    summary: dict[str, Any]


def pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines as HTTP chunks of about 64 KiB."""
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        gathered.append(line)
        size += len(line)
        if size >= _PIECE_BYTES:
            yield b"%x\r\n%b\r\n" % (size, b"".join(gathered))
            gathered, size = [], 0
    if size:
        yield b"%x\r\n%b\r\n" % (size, b"".join(gathered))
    yield b"0\r\n\r\n"


def send(port: int, library: str, body: Iterable[bytes], *, response: str = "results") -> Streamed:
    """Stream `body` (of `pieces`) in; the clock runs from the first byte to the summary."""
    head = (
        f"POST /v1/libraries/{library}/documents/stream?response={response} HTTP/1.1\r\n"
        "host: bench\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    ).encode()
    with Connection(port) as connection:
        started = time.perf_counter()
        connection.socket.sendall(head)

        def speak() -> None:
            for piece in body:
                connection.socket.sendall(piece)

        speaker = threading.Thread(target=speak)
        speaker.start()
        found = _hear(connection, started)
        speaker.join()
    return found


def export(port: int, library: str, query: str = "") -> Streamed:
    """Stream a library out; the clock runs from the request to the summary."""
    head = f"GET /v1/libraries/{library}/documents/stream{query} HTTP/1.1\r\nhost: bench\r\n\r\n"
    with Connection(port) as connection:
        started = time.perf_counter()
        connection.socket.sendall(head.encode())
        return _hear(connection, started)


def _hear(connection: Connection, started: float) -> Streamed:
    count = 0
    first = 0.0
    tail = b""
    for piece in connection.stream():
        if not count:
            first = time.perf_counter() - started
        count += piece.count(b"}\n")
        tail = (tail + piece)[-4096:]
    seconds = time.perf_counter() - started
    last = next(
        (line for line in reversed(tail.splitlines()) if line.startswith(b'{"type":"')), b"{}"
    )
    summary = json.loads(last)
    if summary.get("type") != "summary":
        raise RuntimeError(f"the stream ended with {tail[-1000:].decode(errors='replace')}")
    return Streamed(seconds, first, count, summary)
