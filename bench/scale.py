"""As many chunks as one machine should hold: streamed in, restarted and searched.

What counts is the server's own memory against what `headwater doctor` says it will need: at its
peak, while graphs are built beside those that answer, and after a restart, all loaded. Pages of its
files that are mapped are the system's, which takes them back; they are told beside it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path

from bench import corpus, load, stream
from bench.figure import Figure, percentiles_ms
from bench.run import LIBRARY, Run, recall, search_body, search_request
from bench.server import Server

_MB = 1_000_000
_SETTLED_WITHIN_S = 3_600
_EVERY_SECONDS = 0.5
_SAID = re.compile(r"about ([\d,]+) MB .*? up to ([\d,]+) MB", re.DOTALL)


def measure(run: Run) -> list[Figure]:
    folder = run.folder / "scale"
    with Server(folder) as server, _Peak(server) as peak:
        server.create_library(LIBRARY)
        streamed = stream.send(
            server.port, LIBRARY, stream.pieces(corpus.lines(run.lines)), response="errors"
        )
        settled_s = server.settle(LIBRARY, at_most=_SETTLED_WITHIN_S)
    loaded_mb, building_mb = _predicted(folder)
    encoded = [search_request(LIBRARY, search_body(query)) for query in corpus.queries(20_000)]
    with Server(folder) as server:
        load.run(lambda: load.closed(server.port, encoded[:400], connections=8))
        with run.watched(server):
            done = load.run(
                lambda: load.closed(server.port, encoded[400:], connections=8, seconds=run.seconds)
            )
        found = recall(server)
        memory = server.memory()
    name = f"{run.lines:,} chunks"
    return [
        Figure(
            f"{name}: peak of memory, of what doctor says",
            round(peak.bytes / _MB / building_mb, 2),
            "times",
            1,
            "at most",
            {
                "peak_mb": round(peak.bytes / _MB),
                "doctor_says_mb": building_mb,
                "documents_per_second": round(run.lines / streamed.seconds),
                "graph_finished_after_s": round(settled_s),
            },
        ),
        Figure(
            f"{name}: memory after a restart, of what doctor says",
            round(memory["anonymous"] / _MB / loaded_mb, 2),
            "times",
            1,
            "at most",
            {
                "own_mb": round(memory["anonymous"] / _MB),
                "with_mapped_pages_mb": round(memory["resident"] / _MB),
                "doctor_says_mb": loaded_mb,
                "ready_after_s": round(server.ready_seconds, 2),
                "searches_per_second": round(done.per_second),
                **percentiles_ms(done.latencies),
            },
        ),
        Figure(f"{name}: recall@10", found, "", 0.97, "at least"),
    ]


def _predicted(folder: Path) -> tuple[int, int]:
    """Megabytes with all vectors loaded, and while the largest graph is rebuilt."""
    command = [sys.executable, "-m", "headwater", "doctor", "--data", str(folder)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    said = _SAID.search(told.stdout + told.stderr)
    if said is None:
        raise RuntimeError(f"the doctor says nothing of memory: {told.stdout}")
    loaded, building = (int(number.replace(",", "")) for number in said.groups())
    return loaded, building


class _Peak:
    """The most memory a server was seen with. Sampled from outside."""

    def __init__(self, server: Server) -> None:
        self.bytes = 0
        self._server = server
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_EVERY_SECONDS):
            self.bytes = max(self.bytes, self._server.memory()["anonymous"])
