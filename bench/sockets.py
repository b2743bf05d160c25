"""WebSockets: a search there and back, a write heard on another socket, a crowd half deaf.

A search's clock runs from the request's first byte to the answer's last; an event's from its own
timestamp, taken inside the transaction, to its arrival in another process.
"""

from __future__ import annotations

import gc
import time
from typing import Any

from bench import corpus, stream
from bench.figure import Figure, percentiles_ms
from bench.run import LIBRARY, Run, search_body
from bench.server import Server
from bench.websocket import Listeners, WebSocket, request

CHUNKS = 10_000
SOCKETS = 1_000
PATH = f"/v1/libraries/{LIBRARY}/ws"
_MB = 1_000_000


def measure(run: Run) -> list[Figure]:
    figures = []
    with run.fresh("sockets") as server:
        stream.send(server.port, LIBRARY, stream.pieces(corpus.lines(CHUNKS)))
        server.settle(LIBRARY)
        with run.watched(server):
            figures += _search(run, server)
            figures += _heard(run, server, 1, 0, per_second=100)
    with run.fresh("crowd") as server:
        figures += _crowd(run, server)
    return figures


def _search(run: Run, server: Server) -> list[Figure]:
    requests = [
        request("search", number, search_body(query))
        for number, query in enumerate(corpus.queries(20_000))
    ]
    latencies: list[float] = []
    gc.collect()
    gc.disable()
    try:
        with WebSocket(server.port, PATH) as socket:
            ends = time.perf_counter() + run.seconds
            for number, asked in enumerate(requests):
                began = time.perf_counter()
                socket.send(asked)
                answer = socket.receive()
                now = time.perf_counter()
                if b'"success":true' not in answer[:200]:
                    raise RuntimeError(f"a search failed: {answer[:300]!r}")
                if number >= 200:
                    latencies.append(now - began)
                if now > ends:
                    break
    finally:
        gc.enable()
    found = percentiles_ms(latencies)
    details: dict[str, Any] = {"chunks": CHUNKS, "searches": len(latencies), **found}
    name = "search over a WebSocket, 10,000 chunks"
    return [
        Figure(f"{name}, p50", found["p50_ms"], "ms", 2, "at most", details),
        Figure(f"{name}, p99", found["p99_ms"], "ms", 8, "at most", details),
    ]


def _heard(run: Run, server: Server, readers: int, deaf: int, *, per_second: float) -> list[Figure]:
    texts = list(corpus.texts(round(run.seconds * per_second), seed=8))
    with Listeners(server.port, PATH, readers, deaf) as listeners:
        _wait_for_stall(server, deaf)
        resident = server.memory()["resident"]
        with WebSocket(server.port, PATH) as socket:
            began = time.perf_counter()
            for number, text in enumerate(texts):
                wait = began + number / per_second - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                socket.ask("add", number, {"id": f"told-{readers}-{number}", "text": text})
        delays = listeners.collect(len(texts))
        grown = server.memory()["resident"] - resident
    found = percentiles_ms(delays)
    details: dict[str, Any] = {
        "readers": readers,
        "writes": len(texts),
        **found,
        "grown_mb": round(grown / _MB, 1),
    }
    name = "write to event on another socket"
    if deaf:
        name = f"write to event on {readers} sockets of {readers + deaf}, the others not reading"
    return [
        Figure(f"{name}, p50", found["p50_ms"], "ms", 3, "at most", details),
        Figure(f"{name}, p99", found["p99_ms"], "ms", 15, "at most", details),
    ]


def _wait_for_stall(server: Server, deaf: int, *, at_most: float = 40.0) -> None:
    """Until so many clients take nothing any more; well before the server closes them for it."""
    ends = time.perf_counter() + at_most
    while (stalled := server.get("/v1/websockets/statistics")["waiting_to_read"]) < deaf:
        if time.perf_counter() > ends:
            raise RuntimeError(f"only {stalled} of {deaf} sockets are full")
        time.sleep(0.1)


def _crowd(run: Run, server: Server) -> list[Figure]:
    """A third of the sockets has stopped reading in the middle of a large log."""
    text = "x" * 20_000
    lines = [b'{"id":"large-%d","text":"%b"}\n' % (n, text.encode()) for n in range(200)]
    stream.send(server.port, LIBRARY, stream.pieces(lines))
    server.settle(LIBRARY)
    before = server.memory()["resident"]
    deaf = SOCKETS // 3
    figures = _heard(run, server, SOCKETS - deaf, deaf, per_second=20)
    grown = server.memory()["resident"] - before
    figures.append(
        Figure(
            f"memory of {SOCKETS:,} sockets, a third not reading",
            grown / _MB,
            "MB",
            200,
            "at most",
            {"kb_a_socket": round(grown / SOCKETS / 1000, 1)},
        )
    )
    return figures
