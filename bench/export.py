"""A whole library out as a stream, from the request to the summary."""

from __future__ import annotations

from bench import stream
from bench.figure import Figure
from bench.run import LIBRARY, Run
from bench.server import Server


def measure(run: Run) -> list[Figure]:
    prepared = run.prepared()
    with Server(prepared.folder) as server, run.watched(server):
        plain = stream.export(server.port, LIBRARY)
        full = stream.export(server.port, LIBRARY, "?include=chunks,vectors")
    count = plain.summary["documents"]
    return [
        Figure(
            "export",
            count / plain.seconds,
            "documents/s",
            40_000,
            "at least",
            {
                "documents": count,
                "seconds": round(plain.seconds, 2),
                "first_ms": round(plain.first_seconds * 1000, 1),
                "with_vectors_documents_per_second": round(count / full.seconds),
            },
        )
    ]
