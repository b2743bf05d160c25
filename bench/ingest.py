"""Raw text through one document stream: from the first byte to a summary that says searchable."""

from __future__ import annotations

from bench.figure import Figure
from bench.run import Run


def measure(run: Run) -> list[Figure]:
    prepared = run.prepared()
    streamed = prepared.streamed
    return [
        Figure(
            "ingest through a stream",
            prepared.documents / streamed.seconds,
            "documents/s",
            8_000,
            "at least",
            {
                "documents": prepared.documents,
                "seconds": round(streamed.seconds, 2),
                "first_result_ms": round(streamed.first_seconds * 1000, 1),
                "server_took_ms": streamed.summary["took_ms"],
                "settled_after_s": round(prepared.settle_seconds, 1),
            },
        )
    ]
