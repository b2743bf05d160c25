"""WebSockets: a search there and back, and a write heard on another socket.

A search's clock runs from the request's first byte to the answer's last; an event's from its own
timestamp, taken inside the transaction, to its arrival in another process.
"""

from __future__ import annotations

import gc
import time
from typing import Any

from bench import corpus, stream
from bench.figure import Figure, percentiles_ms
from bench.listeners import Listeners
from bench.run import LIBRARY, Run, search_body
from bench.server import Server
from bench.websocket import WebSocket, request

CHUNKS = 10_000
PER_SECOND = 100
PATH = f"/v1/libraries/{LIBRARY}/ws"


def measure(run: Run) -> list[Figure]:
    figures = []
    with run.fresh("sockets") as server:
        stream.send(server.port, LIBRARY, stream.pieces(corpus.lines(CHUNKS)))
        server.settle(LIBRARY)
        with run.watched(server):
            figures += _search(run, server)
            figures += _heard(run, server)
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


def _heard(run: Run, server: Server) -> list[Figure]:
    texts = list(corpus.texts(round(run.seconds * PER_SECOND), seed=8))
    with Listeners(server.port, PATH, 1) as listener, WebSocket(server.port, PATH) as socket:
        began = time.perf_counter()
        for number, text in enumerate(texts):
            wait = began + number / PER_SECOND - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            socket.ask("add", number, {"id": f"told-{number}", "text": text})
        found = percentiles_ms(listener.collect(len(texts)))
    details: dict[str, Any] = {"writes": len(texts), **found}
    name = "write to event on another socket"
    return [
        Figure(f"{name}, p50", found["p50_ms"], "ms", 3, "at most", details),
        Figure(f"{name}, p99", found["p99_ms"], "ms", 15, "at most", details),
    ]
