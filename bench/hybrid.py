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
    figures = []
    for workers, called in ((1, ""), (2, ", two workers")):
        with Server(prepared.folder, workers=workers) as server:
            hybrid = _load(run, server, "hybrid")
            keyword = _load(run, server, "keyword")
        details = {
            "chunks": prepared.documents,
            "connections": CONNECTIONS,
            "workers": workers,
            **percentiles_ms(hybrid.latencies),
            "keyword_alone_requests_per_second": round(keyword.per_second),
            **{f"keyword_{key}": ms for key, ms in percentiles_ms(keyword.latencies).items()},
        }
        name = f"hybrid search{called}"
        figures.append(Figure(name, hybrid.per_second, "requests/s", 700, "at least", details))
    return figures


def _load(run: Run, server: Server, mode: str) -> load.Load:
    encoded = [
        search_request(LIBRARY, search_body(query, mode=mode)) for query in corpus.queries(40_000)
    ]
    load.run(lambda: load.closed(server.port, encoded[:400], connections=CONNECTIONS))
    with run.watched(server):
        return load.run(
            lambda: load.closed(
                server.port, encoded[400:], connections=CONNECTIONS, seconds=run.seconds
            )
        )
