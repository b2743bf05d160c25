"""Search by words and meaning together, and by words alone, with 8 connections.

On the prepared library, like the search figure, whose numbers by meaning alone stand beside these.
"""

from __future__ import annotations

from bench import corpus, load
from bench.figure import Figure, percentiles_ms
from bench.run import LIBRARY, Run, search_body, search_request
from bench.server import Server

CONNECTIONS = 8


def measure(run: Run) -> list[Figure]:
    prepared = run.prepared()
    with Server(prepared.folder) as server:
        done = {mode: _load(run, server, mode) for mode in ("hybrid", "keyword")}
    details = {"chunks": prepared.documents, "connections": CONNECTIONS}
    hybrid, keyword = done["hybrid"], done["keyword"]
    return [
        Figure(
            "hybrid search",
            hybrid.per_second,
            "requests/s",
            700,
            "at least",
            {
                **details,
                **percentiles_ms(hybrid.latencies),
                "keyword_alone_requests_per_second": round(keyword.per_second),
                **{f"keyword_{key}": ms for key, ms in percentiles_ms(keyword.latencies).items()},
            },
        )
    ]


def _load(run: Run, server: Server, mode: str) -> load.Load:
    encoded = [
        search_request(LIBRARY, search_body(query, mode=mode)) for query in corpus.queries(40_000)
    ]
    load.run(lambda: load.closed(server.port, encoded[:200], connections=CONNECTIONS))
    with run.watched(server):
        return load.run(
            lambda: load.closed(
                server.port, encoded[200:], connections=CONNECTIONS, seconds=run.seconds
            )
        )
