"""Chroma's server, asked over HTTP with what its own client sends.

The requests (paths, bodies, vectors in base64 when adding, batches below its limit) are those of
the `chromadb` client; they leave through the same lean load generator as Headwater's, because that
client would cost more than a search.
"""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench import load
from bench.connection import Connection, request
from bench.figure import percentiles_ms
from bench.peers.data import SAMPLE, Data, K, identifier, numbers
from bench.peers.outcome import Outcome, cheapest
from bench.server import SETTLED_SECONDS, free_port, settle

API = "/api/v2"
COLLECTIONS = f"{API}/tenants/default_tenant/databases/default_database/collections"
BATCH = 5_000  # just below its limit; more connections, or smaller batches, were slower
WRITERS = 1
EF_SEARCH = (
    20,
    32,
    48,
    64,
    80,
    85,
    90,
    95,
    100,
    105,
    110,
    120,
    144,
    170,
    200,
    250,
    300,
    400,
    600,
    800,
)
_START_SECONDS = 60.0


class Chroma:
    """`with Chroma(bin, folder) as chroma`: a server that answers at `port`."""

    def __init__(self, bin: Path, folder: Path) -> None:
        self.port = free_port()
        self._command = [str(bin / "chroma"), "run", "--path", str(folder / "chroma")]
        self._log = folder / "chroma.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Chroma:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        command = [*self._command, "--host", "127.0.0.1", "--port", str(self.port)]
        quiet = {**os.environ, "RUST_LOG": "error", "ANONYMIZED_TELEMETRY": "False"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=quiet)
        started = time.perf_counter()
        while not self._answers():
            late = time.perf_counter() - started > _START_SECONDS
            if late or self._process.poll() is not None:
                self.stop()
                raise RuntimeError(f"Chroma did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        assert self._process is not None, "not started"
        self._process.terminate()
        self._process.wait(60)

    def _answers(self) -> bool:
        try:
            return self.call("GET", f"{API}/heartbeat") is not None
        except OSError:
            return False

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        with Connection(self.port) as connection:
            return connection.json(method, path, body)


def measure(
    bin: Path, folder: Path, data: Data, *, goal: float, connections: int, seconds: float
) -> Outcome:
    with Chroma(bin, folder) as chroma:
        configuration = {"hnsw": {"space": "cosine"}}
        made = chroma.call("POST", COLLECTIONS, {"name": "peers", "configuration": configuration})
        path = f"{COLLECTIONS}/{made['id']}"
        searchable = _fill(chroma, path, data)
        settled = settle([chroma.pid], at_most=600) - SETTLED_SECONDS
        ef_search, found = _tune(chroma, path, data, goal)
        encoded = [
            request("POST", f"{path}/query", msgspec.json.encode(_query(query)))
            for query in data.queries
        ]
        load.run(lambda: load.closed(chroma.port, encoded[:400], connections=connections))
        used = time.process_time()
        done = load.run(
            lambda: load.closed(chroma.port, encoded, connections=connections, seconds=seconds)
        )
        used = time.process_time() - used
    times = percentiles_ms(done.latencies)
    return Outcome(
        name="Chroma",
        version=_version(bin),
        spoken="HTTP, JSON (vectors in base64 when adding)",
        durability=DURABILITY,
        ingest=f"batches of {BATCH:,} on one connection",
        index=f"HNSW, M 16, ef_construction 100 (defaults), ef_search {ef_search}",
        documents=data.count,
        searchable_seconds=searchable,
        complete_seconds=searchable + max(0.0, settled),
        recall=found,
        per_second=done.per_second,
        p50_ms=times["p50_ms"],
        p99_ms=times["p99_ms"],
        client_share=used / (done.ended - done.started),
    )


def _fill(chroma: Chroma, path: str, data: Data) -> float:
    """Returns the seconds until what was stored last is found."""
    batches = [
        request("POST", f"{path}/add", msgspec.json.encode(_batch(data, start)))
        for start in range(0, data.count, BATCH)
    ]
    started = time.perf_counter()
    load.run(lambda: load.closed(chroma.port, batches, connections=WRITERS))
    last = chroma.call("POST", f"{path}/query", _query(data.vectors[-1]))["ids"][0][0]
    if last != identifier(data.count - 1):
        raise RuntimeError(f"what was stored last was not found but {last}")
    return time.perf_counter() - started


def _tune(chroma: Chroma, path: str, data: Data, goal: float) -> tuple[int, float]:
    async def recall(ef_search: int) -> float:
        changed = {"new_configuration": {"hnsw": {"ef_search": ef_search}}}
        chroma.call("PUT", path, changed)
        chroma.stop()  # an index that is loaded keeps the ef_search it was loaded with
        chroma.start()
        with Connection(chroma.port) as connection:
            found = [
                connection.json("POST", f"{path}/query", _query(query))["ids"][0]
                for query in data.queries[:SAMPLE]
            ]
        return data.recall(found)

    return asyncio.run(cheapest(EF_SEARCH, goal, recall))


DURABILITY = "synced at every commit (SQLite's rollback journal)"
"""Seen with strace: the default of its server, which has no setting for it."""


def _batch(data: Data, start: int) -> dict[str, Any]:
    vectors = data.vectors[start : start + BATCH].astype("<f4", copy=False)
    return {
        "ids": [identifier(start + number) for number in range(len(vectors))],
        "embeddings": [base64.b64encode(vector.tobytes()).decode() for vector in vectors],
        "metadatas": None,
        "documents": data.texts[start : start + BATCH],
        "uris": None,
    }


def _query(vector: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    return {
        "query_embeddings": [numbers(vector)],
        "n_results": K,
        "include": ["documents", "distances"],
    }


def _version(bin: Path) -> str:
    code = "import importlib.metadata as m; print(m.version('chromadb'))"
    said = subprocess.run([bin / "python", "-c", code], check=True, capture_output=True, text=True)
    return said.stdout.strip()
