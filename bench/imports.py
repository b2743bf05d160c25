"""Imports as jobs against the stream, and searches while an index is made anew.

Both ways take the same documents into a library of their own on one server, one after the other.
The import's clock runs from when its file has been taken to the end of the job.
"""

from __future__ import annotations

import json
import time
from typing import Any

from bench import corpus, stream
from bench.connection import Connection
from bench.figure import Figure, percentiles_ms
from bench.run import LIBRARY, Run, search_body
from bench.server import Server

OTHER = "imported"
_POLL_S = 0.05


def measure(run: Run) -> list[Figure]:
    lines = list(corpus.lines(run.documents))
    with run.fresh("imports") as server:
        server.create_library(OTHER)
        streamed = stream.send(server.port, LIBRARY, stream.pieces(lines), response="errors")
        server.settle(LIBRARY)
        with run.watched(server):
            imported = _import(server, b"".join(lines))
        if imported["result"]["created"] != run.documents:
            raise RuntimeError(f"not every document was imported: {imported}")
        server.settle(OTHER)
        figures = [_ratio(run, streamed.seconds, imported)]
        figures.append(_rebuild(run, server))
    return figures


def _ratio(run: Run, streamed_s: float, imported: dict[str, Any]) -> Figure:
    ran_s = imported["ran_s"]
    return Figure(
        "batch_import against the stream",
        100 * streamed_s / ran_s,
        "%",
        70,
        "at least",
        {
            "documents": run.documents,
            "import_per_second": round(run.documents / ran_s),
            "stream_per_second": round(run.documents / streamed_s),
            "upload_s": round(imported["upload_s"], 2),
        },
    )


def _import(server: Server, body: bytes) -> dict[str, Any]:
    with Connection(server.port) as connection:
        began = time.perf_counter()
        path = f"/v1/jobs/batch-import?library={OTHER}&format=ndjson"
        status, answer = connection.call("POST", path, body)
        if status != 202:
            raise RuntimeError(f"the import was refused: {answer.decode()[:500]}")
        job = json.loads(answer)
        sent = time.perf_counter()
        done = _ended(connection, job["job_id"])
        return {**done, "upload_s": sent - began, "ran_s": time.perf_counter() - sent}


def _ended(connection: Connection, id: str) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = connection.json("GET", f"/v1/jobs/{id}")
        if job["status"] == "completed":
            return job
        if job["status"] in ("failed", "cancelled"):
            raise RuntimeError(f"the job did not complete: {job}")
        time.sleep(_POLL_S)


def _rebuild(run: Run, server: Server) -> Figure:
    """One client searches; how much longer its slowest searches take while an index is made."""
    queries = [search_body(query) for query in corpus.queries(2_000)]
    path = f"/v1/libraries/{LIBRARY}/search"
    with Connection(server.port) as asking, Connection(server.port) as watching:

        def search(until: float, job: str | None) -> list[float]:
            taken: list[float] = []
            looked = 0.0
            while time.perf_counter() < until:
                began = time.perf_counter()
                asking.json("POST", path, queries[len(taken) % len(queries)])
                taken.append(time.perf_counter() - began)
                if job is not None and began - looked > _POLL_S:
                    looked = began
                    if watching.json("GET", f"/v1/jobs/{job}")["status"] == "completed":
                        break
            return taken

        search(time.perf_counter() + 1, None)
        quiet = search(time.perf_counter() + run.seconds, None)
        job = watching.json("POST", "/v1/jobs/index-rebuild", {"library": LIBRARY})["job_id"]
        busy = search(time.perf_counter() + 600, job)
        _ended(watching, job)
    before, during = percentiles_ms(quiet), percentiles_ms(busy)
    return Figure(
        "search p99 while its index is made anew",
        during["p99_ms"] / before["p99_ms"],
        "times",
        2,
        "at most",
        {"quiet": before, "during": during, "searches": len(busy)},
    )
