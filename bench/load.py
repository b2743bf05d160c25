"""Many small requests over a few connections, in one event loop.

Closed: every connection asks again as soon as it has its answer. Paced: requests leave by the
clock and wait for a free connection, and their time counts from when they were due. The parser
knows answers with a content length and nothing else.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


@dataclass(slots=True)
class Load:
    """What became of the requests. `latencies` in seconds, in order of answers."""

    latencies: list[float] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / (self.ended - self.started)

    def check(self) -> Load:
        if self.refused:
            raise RuntimeError(
                f"{len(self.refused)} requests were refused, such as {self.refused[0][:500]!r}"
            )
        return self


class _Caller(asyncio.Protocol):
    def __init__(self, load: Load, idle: Callable[[_Caller], None]) -> None:
        self._load = load
        self._idle = idle
        self._buffer = b""
        self._expected = 0
        self._asked = 0.0
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes, due: float | None = None) -> None:
        self._asked = time.perf_counter() if due is None else due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        if not self._expected:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                self._buffer = buffer
                return
            at = buffer.find(b"content-length: ", 0, end) + 16
            self._expected = end + 4 + int(buffer[at : buffer.find(b"\r", at)])
        if len(buffer) < self._expected:
            self._buffer = buffer
            return
        self._load.latencies.append(time.perf_counter() - self._asked)
        if buffer[9:11] != b"20":
            self._load.refused.append(buffer)
        self._buffer = b""
        self._expected = 0
        self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._asked and not self._transport.is_closing():
            self._load.refused.append(b"the connection was lost")

    def close(self) -> None:
        self._transport.close()


def run(main: Callable[[], Awaitable[T]]) -> T:
    """Run on uvloop, without pauses of the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

            async def body() -> T:
                return await main()

            return runner.run(body())
    finally:
        gc.enable()


async def closed(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float | None = None,
) -> Load:
    """Send `requests` once, or over and over for `seconds`."""
    source: Iterator[bytes] = itertools.cycle(requests) if seconds else iter(requests)
    load = Load()
    over = asyncio.Event()
    busy = 0
    ends = 0.0

    def idle(caller: _Caller) -> None:
        nonlocal busy
        request = next(source, None) if not seconds or time.perf_counter() < ends else None
        if request is None:
            busy -= 1
            if not busy:
                over.set()
        else:
            caller.ask(request)

    callers = await _connect(port, load, idle, connections)
    load.started = time.perf_counter()
    ends = load.started + (seconds or 0)
    busy = len(callers)
    for caller in callers:
        idle(caller)
    await over.wait()
    load.ended = time.perf_counter()
    for caller in callers:
        caller.close()
    return load.check()


async def paced(
    port: int, requests: Sequence[bytes], *, connections: int, per_second: float
) -> Load:
    """Send each of `requests` when it is due."""
    load = Load()
    free: deque[_Caller] = deque()
    late: deque[tuple[bytes, float]] = deque()
    over = asyncio.Event()

    def idle(caller: _Caller) -> None:
        if late:
            caller.ask(*late.popleft())
        else:
            free.append(caller)
        if len(load.latencies) == len(requests):
            over.set()

    callers = await _connect(port, load, idle, connections)
    free.extend(callers)
    load.started = time.perf_counter()
    for number, request in enumerate(requests):
        due = load.started + number / per_second
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if free:
            free.popleft().ask(request, due)
        else:
            late.append((request, due))
    await over.wait()
    load.ended = time.perf_counter()
    for caller in callers:
        caller.close()
    return load.check()


async def stream_paced(
    port: int, library: str, lines: Sequence[bytes], *, per_second: float, every: float = 0.01
) -> float:
    """Stream `lines` in at a steady rate. Returns the documents a second that came to be."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /v1/libraries/{library}/documents/stream?response=errors HTTP/1.1\r\n"
        "host: bench\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    )
    started = time.perf_counter()
    sent = 0
    while sent < len(lines):
        due = min(len(lines), int((time.perf_counter() - started) * per_second) + 1)
        body = b"".join(lines[sent:due])
        if body:
            writer.write(b"%x\r\n%b\r\n" % (len(body), body))
            await writer.drain()
        sent = due
        await asyncio.sleep(every)
    writer.write(b"0\r\n\r\n")
    answer = b""
    while not answer.endswith(b"\r\n0\r\n\r\n"):
        piece = await reader.read(1 << 16)
        if not piece:
            raise ConnectionError("the stream was cut")
        answer += piece
    writer.close()
    if b'"failed":0,' not in answer:
        raise RuntimeError(f"lines failed: {answer[-800:].decode(errors='replace')}")
    return len(lines) / (time.perf_counter() - started)


async def _connect(
    port: int, load: Load, idle: Callable[[_Caller], None], connections: int
) -> list[_Caller]:
    loop = asyncio.get_running_loop()
    return [
        (await loop.create_connection(lambda: _Caller(load, idle), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
