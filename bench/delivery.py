"""From a commit to its event at a subscriber.

The clock starts at the event's own `timestamp`, which the server takes inside the transaction, so
the sync to disk is part of what is measured; it stops when the subscriber's process has read the
event's last byte.
"""

from __future__ import annotations

from functools import partial

from bench import corpus, load
from bench.figure import Figure, percentiles_ms
from bench.run import Run, post_document
from bench.subscribers import Subscribers

CASES = ((10, 500), (100, 100))
WRITERS = 16


def measure(run: Run) -> list[Figure]:
    figures = []
    for subscribers, per_second in CASES:
        count = round(run.seconds * per_second)
        requests = [
            post_document(number, text, "event")
            for number, text in enumerate(corpus.texts(count, seed=6))
        ]
        with (
            run.fresh(f"delivery-{subscribers}") as server,
            Subscribers(server.port, subscribers, "times") as heard,
            run.watched(server),
        ):
            done = load.run(
                partial(
                    load.paced,
                    server.port,
                    requests,
                    connections=WRITERS,
                    per_second=per_second,
                )
            )
            told = heard.collect(count)
        if set(told.events) != {count}:
            raise RuntimeError(f"subscribers heard {sorted(set(told.events))} of {count} events")
        delays = percentiles_ms(told.delays)
        details = {
            "writes_per_second": round(done.per_second),
            "deliveries": len(told.delays),
            **delays,
            "write_p50_ms": percentiles_ms(done.latencies)["p50_ms"],
        }
        name = f"commit to delivery, {subscribers} subscribers, {per_second} writes/s"
        figures += [
            Figure(f"{name}, p50", delays["p50_ms"], "ms", 3, "at most", details),
            Figure(f"{name}, p99", delays["p99_ms"], "ms", 15, "at most", details),
        ]
    return figures
