"""Vector search under filters that let half, a tenth, a hundredth and a thousandth pass.

A library of its own, whose documents have a number to filter by, so that what other figures
measure does not change. Time is measured with one connection, because the question is what a
filter costs a search and not what waits in line; the unfiltered runs stand before and after the
filtered ones, against a machine that changes meanwhile.
"""

from __future__ import annotations

import statistics
from typing import Any

from bench import corpus, load, stream
from bench.figure import Figure, percentiles_ms
from bench.run import Run, recall, search_body, search_request, warm_up
from bench.server import Server

LIBRARY = "filtered"
MODULUS = 1_000
CASES = ((500, "50 %"), (100, "10 %"), (10, "1 %"), (1, "0.1 %"))
QUERIES = 2_000


def measure(run: Run) -> list[Figure]:
    with Server(run.folder / "filtered") as server:
        server.create_library(LIBRARY)
        warm_up(server, LIBRARY)
        lines = corpus.lines(run.documents, numbered=MODULUS)
        streamed = stream.send(server.port, LIBRARY, list(stream.pieces(lines)))
        server.settle(LIBRARY)
        with run.watched(server):
            unfiltered = [_times(run, server, None)]
            filtered = [_times(run, server, {"n": {"$lt": below}}) for below, _ in CASES]
            unfiltered.append(_times(run, server, None))
        plain = statistics.mean(times["p50_ms"] for times in unfiltered)
        figures = []
        for (below, share), times in zip(CASES, filtered, strict=True):
            found = recall(server, library=LIBRARY, filter={"n": {"$lt": below}})
            details: dict[str, Any] = {
                "chunks": run.documents,
                **times,
                "unfiltered_p50_ms": [each["p50_ms"] for each in unfiltered],
            }
            name = f"filter passing {share}"
            figures += [
                Figure(f"{name}, recall@10", found, "", 0.97, "at least"),
                Figure(
                    f"{name}, p50 against unfiltered",
                    round(times["p50_ms"] / plain, 2),
                    "times",
                    2,
                    "at most",
                    details,
                ),
            ]
    figures[0].details.update(
        ingest_with_metadata_documents_per_second=round(run.documents / streamed.seconds)
    )
    return figures


def _times(run: Run, server: Server, filter: dict[str, Any] | None) -> dict[str, float]:
    encoded = [
        search_request(LIBRARY, search_body(query, filter=filter))
        for query in corpus.queries(QUERIES)
    ]
    load.run(lambda: load.closed(server.port, encoded[:100], connections=1))
    done = load.run(
        lambda: load.closed(server.port, encoded, connections=1, seconds=run.seconds / 3)
    )
    return percentiles_ms(done.latencies)
