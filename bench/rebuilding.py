"""Writes while an index is made anew: into its own library, and into another.

Directly before, and while the job runs, in turn and several times: the rate of a stream, and how
long the slowest single writes of one client take. What counts is the median of the ratios.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

from bench import corpus, load, stream
from bench.connection import Connection
from bench.figure import Figure, percentiles_ms
from bench.run import LIBRARY, Run, post_document, warm_up
from bench.server import Server

OTHER = "beside"
WHERE = {OTHER: "another library", LIBRARY: "its library"}
ROUNDS = 3
STREAMED = 20_000
SINGLES = 10_000
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Written:
    """Documents a second through a stream, and single writes one after another."""

    per_second: float
    single: dict[str, float]


def measure(run: Run) -> list[Figure]:
    quiet: dict[str, list[Written]] = {OTHER: [], LIBRARY: []}
    during: dict[str, list[Written]] = {OTHER: [], LIBRARY: []}
    with run.fresh("rebuilding") as server:
        server.create_library(OTHER)
        warm_up(server, OTHER)
        stream.send(server.port, LIBRARY, stream.pieces(corpus.lines(run.documents)))
        for number in range(ROUNDS):
            for library, found in quiet.items():
                server.settle(library)
                found.append(_written(run, server, library, f"quiet-{number}"))
            server.settle(LIBRARY)
            _rebuild(run, server, during, number)
    return [figure for library in WHERE for figure in _figures(library, quiet, during)]


def _rebuild(run: Run, server: Server, during: dict[str, list[Written]], number: int) -> None:
    """Write into both while the index is made anew; return when it is there."""
    with Connection(server.port) as asking:
        path = "/v1/jobs/index-rebuild"
        job: str = asking.json("POST", path, {"library": LIBRARY})["job_id"]
        _until(asking, job, "running")
        with run.watched(server):
            for library, found in during.items():
                found.append(_written(run, server, library, f"during-{number}"))
        if asking.json("GET", f"/v1/jobs/{job}")["status"] != "running":
            raise RuntimeError("the index was there before all was written")
        _until(asking, job, "completed")


def _figures(
    library: str, quiet: dict[str, list[Written]], during: dict[str, list[Written]]
) -> list[Figure]:
    before, busy = quiet[library], during[library]
    pairs = list(zip(before, busy, strict=True))
    return [
        Figure(
            f"stream into {WHERE[library]} while an index is made anew",
            statistics.median(100 * b.per_second / a.per_second for a, b in pairs),
            "% of before",
            50,
            "at least",
            {
                "before_per_second": [round(one.per_second) for one in before],
                "during_per_second": [round(one.per_second) for one in busy],
            },
        ),
        Figure(
            f"single writes into {WHERE[library]} while an index is made anew, p99",
            statistics.median(b.single["p99_ms"] / a.single["p99_ms"] for a, b in pairs),
            "times before",
            2,
            "at most",
            {"before": [one.single for one in before], "during": [one.single for one in busy]},
        ),
    ]


def _written(run: Run, server: Server, library: str, prefix: str) -> Written:
    seed = sum(f"{library}-{prefix}".encode())
    body = list(stream.pieces(corpus.lines(STREAMED, seed=seed, prefix=prefix)))
    singles = [
        post_document(number, text, f"{prefix}-single", library)
        for number, text in enumerate(corpus.texts(SINGLES, seed=seed + 1))
    ]
    seconds = run.seconds / 3
    one_by_one = load.run(lambda: load.closed(server.port, singles, connections=1, seconds=seconds))
    streamed = stream.send(server.port, library, body, response="errors")
    if streamed.summary["created"] != STREAMED:
        raise RuntimeError(f"not every document was created: {streamed.summary}")
    return Written(STREAMED / streamed.seconds, percentiles_ms(one_by_one.latencies))


def _until(connection: Connection, job: str, status: str) -> None:
    while True:
        found: dict[str, Any] = connection.json("GET", f"/v1/jobs/{job}")
        if found["status"] == status:
            return
        if found["status"] in ("failed", "cancelled", "completed"):
            raise RuntimeError(f"the job is not {status}: {found}")
        time.sleep(_POLL_S)
