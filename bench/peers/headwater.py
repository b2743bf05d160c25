"""Headwater as it is when nothing is set: vectors over HTTP into a library without embedder.

Searched twice: served by one process, and by two workers, one for each core, as the peers' servers
use both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

from bench import load, stream
from bench.connection import Connection, request
from bench.figure import percentiles_ms
from bench.peers.data import SAMPLE, Data, K, identifier, numbers
from bench.peers.outcome import Outcome
from bench.server import SETTLED_SECONDS, Server
from headwater import __version__

LIBRARY = "peers"
_PATH = f"/v1/libraries/{LIBRARY}/search"


@dataclass(frozen=True, slots=True)
class _Searched:
    recall: float
    per_second: float
    p50_ms: float
    p99_ms: float
    client_share: float


def measure(folder: Path, data: Data, *, connections: int, seconds: float) -> list[Outcome]:
    """By one process first."""
    body = list(stream.pieces(_lines(data)))
    where = folder / "headwater"
    with Server(where) as server:
        server.post(
            "/v1/libraries",
            {"name": LIBRARY, "embedder": "none", "dimension": data.dimension},
        )
        started = time.perf_counter()
        summary = stream.send(server.port, LIBRARY, body).summary
        with Connection(server.port) as connection:
            query = {"vector": numbers(data.vectors[-1]), "k": K}
            last = connection.json("POST", _PATH, query)["results"][0]["document_id"]
            searchable = time.perf_counter() - started
            if summary["created"] != data.count or last != identifier(data.count - 1):
                raise RuntimeError(f"not everything was stored and found: {summary}, {last}")
            complete = searchable + server.settle(LIBRARY, at_most=600) - SETTLED_SECONDS
        alone = _searched(server, data, connections, seconds)
    with Server(where, workers=2) as server:
        together = _searched(server, data, connections, seconds)
    outcome = Outcome(
        name="Headwater",
        version=__version__,
        spoken="HTTP, JSON",
        durability="synced at every commit (`full`, the default)",
        ingest="one NDJSON stream",
        index="HNSW in segments, as configured by default",
        documents=data.count,
        searchable_seconds=searchable,
        complete_seconds=max(searchable, complete),
        **asdict(alone),
    )
    workers = "the same files, served with `--workers 2`"
    return [
        outcome,
        replace(
            outcome,
            name="Headwater, two workers",
            ingest="as above",
            index=workers,
            **asdict(together),
        ),
    ]


def _searched(server: Server, data: Data, connections: int, seconds: float) -> _Searched:
    encoded = [msgspec.json.encode({"vector": numbers(query), "k": K}) for query in data.queries]
    found = []
    with Connection(server.port) as connection:
        for each in encoded[:SAMPLE]:
            _, answer = connection.call("POST", _PATH, each)
            found.append([hit["document_id"] for hit in msgspec.json.decode(answer)["results"]])
    requests = [request("POST", _PATH, each) for each in encoded]
    load.run(lambda: load.closed(server.port, requests[:400], connections=connections))
    used = time.process_time()
    done = load.run(
        lambda: load.closed(server.port, requests, connections=connections, seconds=seconds)
    )
    used = time.process_time() - used
    times = percentiles_ms(done.latencies)
    return _Searched(
        recall=data.recall(found),
        per_second=done.per_second,
        p50_ms=times["p50_ms"],
        p99_ms=times["p99_ms"],
        client_share=used / (done.ended - done.started),
    )


def _lines(data: Data) -> Iterator[bytes]:
    for number, (text, vector) in enumerate(zip(data.texts, data.vectors, strict=True)):
        chunk = {"text": text, "vector": numbers(vector)}
        yield msgspec.json.encode({"id": identifier(number), "chunks": [chunk]}) + b"\n"
