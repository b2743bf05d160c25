"""Single documents from 16 clients that each wait for their answer, every one durable."""

from __future__ import annotations

from bench import corpus, load
from bench.figure import Figure, percentiles_ms
from bench.run import Run, post_document

CLIENTS = 16


def measure(run: Run) -> list[Figure]:
    count = max(500, run.documents // 8)
    requests = [
        post_document(number, text, "single")
        for number, text in enumerate(corpus.texts(count, seed=3))
    ]
    with run.fresh("single") as server, run.watched(server):
        done = load.run(lambda: load.closed(server.port, requests, connections=CLIENTS))
    return [
        Figure(
            f"single POSTs, {CLIENTS} clients",
            done.per_second,
            "documents/s",
            1_000,
            "at least",
            {"documents": count, **percentiles_ms(done.latencies)},
        )
    ]
