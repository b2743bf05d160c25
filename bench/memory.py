"""The server's memory while a very long stream comes in, and while it goes out again.

What counts is the growth of resident memory since the server rested with a warm, empty library,
less the growth of the view, which the server reports itself. Sampled from outside.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from bench import corpus, stream
from bench.connection import Connection
from bench.figure import Figure
from bench.run import LIBRARY, Run
from bench.server import Server

_MB = 1_000_000
_EVERY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    resident: int
    anonymous: int
    view: int


def measure(run: Run) -> list[Figure]:
    figures = []
    with run.fresh("memory") as server:
        server.settle(LIBRARY)
        rest = _sample(server)

        def take_in() -> stream.Streamed:
            return stream.send(
                server.port, LIBRARY, stream.pieces(corpus.lines(run.lines)), response="errors"
            )

        def give_out() -> stream.Streamed:
            return stream.export(server.port, LIBRARY)

        with run.watched(server):
            came, samples = _sampled(server, take_in)
        server.settle(LIBRARY, at_most=600)
        settled = _sample(server)
        figures.append(_figure("in", rest, samples, run.lines, came, settled))
        rest = settled
        went, samples = _sampled(server, give_out)
        figures.append(_figure("out", rest, samples, run.lines, went, samples[-1]))
    return figures


def _figure(
    way: str,
    rest: Sample,
    samples: list[Sample],
    lines: int,
    streamed: stream.Streamed,
    settled: Sample,
) -> Figure:
    *beyond, later = (
        (sample.resident - rest.resident) - (sample.view - rest.view)
        for sample in (*samples, settled)
    )
    return Figure(
        f"memory beyond views while {lines:,} lines go {way}",
        max(beyond) / _MB,
        "MB",
        100,
        "at most",
        {
            "at_the_end_mb": round(beyond[-1] / _MB, 1),
            "once_settled_mb": round(later / _MB, 1),
            "resident_at_rest_mb": round(rest.resident / _MB, 1),
            "resident_peak_mb": round(max(sample.resident for sample in samples) / _MB, 1),
            "view_at_the_end_mb": round(samples[-1].view / _MB, 1),
            "documents_per_second": round(lines / streamed.seconds),
        },
    )


def _sample(server: Server) -> Sample:
    memory = server.memory()
    with Connection(server.port) as connection:
        index = connection.json("GET", f"/v1/libraries/{LIBRARY}")["index"]
    return Sample(memory["resident"], memory["anonymous"], index["memory_bytes"] if index else 0)


def _sampled(
    server: Server, work: Callable[[], stream.Streamed]
) -> tuple[stream.Streamed, list[Sample]]:
    samples: list[Sample] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(_EVERY_SECONDS):
            samples.append(_sample(server))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        done = work()
    finally:
        over.set()
        thread.join()
    samples.append(_sample(server))
    return done, samples
