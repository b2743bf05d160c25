"""Deliveries a second to 100 subscribers while a stream comes in as fast as it can.

Every subscriber hears every document. The time counts from the first event delivered to the last,
so the ingest is inside it.
"""

from __future__ import annotations

from bench import corpus, stream
from bench.figure import Figure
from bench.run import LIBRARY, Run
from bench.subscribers import Subscribers

SUBSCRIBERS = 100


def measure(run: Run) -> list[Figure]:
    body = list(stream.pieces(corpus.lines(run.documents, seed=8)))
    with (
        run.fresh("fanout") as server,
        Subscribers(server.port, SUBSCRIBERS, "count") as subscribers,
        run.watched(server),
    ):
        streamed = stream.send(server.port, LIBRARY, body, response="errors")
        heard = subscribers.collect(run.documents, at_most=300)
    if set(heard.events) != {run.documents}:
        raise RuntimeError(
            f"subscribers heard {min(heard.events)} to {max(heard.events)} of {run.documents}"
        )
    seconds = heard.last - heard.first
    return [
        Figure(
            f"fan-out to {SUBSCRIBERS} subscribers while a stream comes in",
            sum(heard.events) / seconds,
            "deliveries/s",
            400_000,
            "at least",
            {
                "deliveries": sum(heard.events),
                "seconds": round(seconds, 2),
                "ingest_documents_per_second": round(run.documents / streamed.seconds),
                "mib_per_second": round(heard.bytes / seconds / (1 << 20)),
            },
        )
    ]
