"""Jobs: submitted, durable, in batches and one by one; begun on an idle pool; run through it."""

from __future__ import annotations

import json
import time
from typing import Any

from bench import load, nothing
from bench.connection import Connection, request
from bench.figure import Figure, percentiles_ms
from bench.run import Run

BATCH = 500
BATCHES = 20
SINGLES = 2_000
CLIENTS = 16
STARTS = 200
WAIT_S = 120.0


def measure(run: Run) -> list[Figure]:
    nothing.declare(run.folder / "job-types")
    job = {"type": "nothing"}
    batch = request("POST", "/v1/jobs/batch", json.dumps({"jobs": [job] * BATCH}).encode())
    single = request("POST", "/v1/jobs", json.dumps(job).encode())
    with run.fresh("jobs") as server, Connection(server.port) as connection:
        waited = [_waited_s(connection, job) for _ in range(STARTS)]
        connection.json("PUT", "/v1/workers", {"mode": "pause"})
        batches = load.run(lambda: load.closed(server.port, [batch] * BATCHES, connections=2))
        singles = load.run(
            lambda: load.closed(server.port, [single] * SINGLES, connections=CLIENTS)
        )
        count = BATCH * BATCHES + SINGLES
        with run.watched(server):
            started = time.perf_counter()
            connection.json("PUT", "/v1/workers", {"mode": "run"})
            _until(connection, STARTS + count)
            ran_s = time.perf_counter() - started
        places = connection.json("GET", "/v1/workers")["workers"][0]["size"]
    starts = percentiles_ms(waited)
    return [
        Figure(
            f"jobs submitted in batches of {BATCH}",
            batches.per_second * BATCH,
            "jobs/s",
            2_000,
            "at least",
            {"jobs": BATCH * BATCHES, **percentiles_ms(batches.latencies)},
        ),
        Figure(
            f"jobs submitted one by one, {CLIENTS} clients",
            singles.per_second,
            "jobs/s",
            500,
            "at least",
            {"jobs": SINGLES, **percentiles_ms(singles.latencies)},
        ),
        Figure(
            "submit to start on an idle pool, p50", starts["p50_ms"], "ms", 25, "at most", starts
        ),
        Figure(
            "jobs that do nothing, through the pool",
            count / ran_s,
            "jobs/s",
            500,
            "at least",
            {"jobs": count, "places": places},
        ),
    ]


def _waited_s(connection: Connection, job: dict[str, Any]) -> float:
    """How long a job waited, submitted while nothing else was to do."""
    id = connection.json("POST", "/v1/jobs", job)["job_id"]
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        state = connection.json("GET", f"/v1/jobs/{id}")
        if state["status"] == "completed":
            return float(state["waited_ms"]) / 1000
        time.sleep(0.002)
    raise RuntimeError(f"job {id} has not completed in {WAIT_S} s")


def _until(connection: Connection, completed: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if connection.json("GET", "/v1/jobs/statistics")["completed"] >= completed:
            return
        time.sleep(0.1)
    raise RuntimeError(f"the jobs have not completed in {WAIT_S} s")
