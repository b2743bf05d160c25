"""From the start of the process to `/ready`, with a filled library and its snapshots."""

from __future__ import annotations

import statistics

from bench.figure import Figure
from bench.run import LIBRARY, Run
from bench.server import Server

TIMES = 3


def measure(run: Run) -> list[Figure]:
    prepared = run.prepared()
    took = []
    rows = 0
    for _ in range(TIMES):
        with Server(prepared.folder) as server:
            took.append(server.ready_seconds)
            rows = server.get(f"/v1/libraries/{LIBRARY}")["index"]["rows"]
    return [
        Figure(
            "start-up from snapshots",
            statistics.median(took),
            "s",
            2,
            "at most",
            {"chunks": rows, "all_s": [round(each, 2) for each in took]},
        )
    ]
