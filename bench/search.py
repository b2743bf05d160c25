"""Search by meaning, 8 connections: at rest, and while a stream brings 1,000 documents a second.

By one process, which its interpreter lock keeps from using both cores, and by two workers. Recall
is taken at once after the stream, when part of the index still waits to be built, and again at
rest; each time against the server's own exact answers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from bench import corpus, load
from bench.figure import Figure, percentiles_ms
from bench.run import LIBRARY, Run, recall, search_body, search_request
from bench.server import Server

CONNECTIONS = 8
DOCUMENTS_PER_SECOND = 1_000


def measure(run: Run) -> list[Figure]:
    prepared = run.prepared()
    encoded = [search_request(LIBRARY, search_body(query)) for query in corpus.queries(40_000)]
    figures = []
    for workers, called in ((1, ""), (2, ", two workers")):
        with Server(prepared.folder, workers=workers) as server:
            load.run(lambda: load.closed(server.port, encoded[:400], connections=CONNECTIONS))
            with run.watched(server):
                calm = load.run(
                    lambda: load.closed(
                        server.port, encoded[400:], connections=CONNECTIONS, seconds=run.seconds
                    )
                )
            busy, rate = _while_ingesting(run, server, encoded, workers)
            recall_busy = recall(server)
        details: dict[str, Any] = {
            "chunks": prepared.documents,
            "connections": CONNECTIONS,
            "workers": workers,
        }
        busy_ms = percentiles_ms(busy.latencies)
        calm_ms = percentiles_ms(calm.latencies)
        figures += [
            Figure(
                f"search{called}",
                calm.per_second,
                "requests/s",
                2_000,
                "at least",
                {**details, **calm_ms},
            ),
            Figure(f"search{called}, p99", calm_ms["p99_ms"], "ms", 15, "at most", details),
            Figure(
                f"search{called}, while 1,000 documents/s come in, p99",
                busy_ms["p99_ms"],
                "ms",
                40,
                "at most",
                {
                    "requests_per_second": round(busy.per_second),
                    "documents_per_second": round(rate),
                    "recall_after": recall_busy,
                    **busy_ms,
                },
            ),
        ]
    figures.append(
        Figure(
            "search, recall@10",
            prepared.recall,
            "",
            0.97,
            "at least",
            {"directly_after_ingest": prepared.recall_fresh},
        )
    )
    return figures


def _while_ingesting(
    run: Run, server: Server, encoded: list[bytes], workers: int
) -> tuple[load.Load, float]:
    count = round(run.seconds * DOCUMENTS_PER_SECOND)
    lines = list(corpus.lines(count, seed=4, prefix=f"paced-{workers}"))

    async def both() -> tuple[load.Load, float]:
        stream = asyncio.ensure_future(
            load.stream_paced(server.port, LIBRARY, lines, per_second=DOCUMENTS_PER_SECOND)
        )
        await asyncio.sleep(0.2)
        found = await load.closed(
            server.port, encoded, connections=CONNECTIONS, seconds=run.seconds - 0.5
        )
        return found, await stream

    return load.run(both)
