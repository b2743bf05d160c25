"""LanceDB, a library inside the client's own process. Runs in its own environment.

`python -m bench.peers.lance DATA FOLDER GOAL CONNECTIONS SECONDS`; the last line printed is the
outcome. There is no server and nothing is sent, so its numbers lack what the others' contain. Two
kinds of its indexes are tuned, and the one that answers more at the recall asked for is taken.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow
from lancedb.index import HnswSq, IvfPq

from bench.figure import percentiles_ms
from bench.peers.data import SAMPLE, Data, K, identifier
from bench.peers.outcome import Outcome, cheapest

BATCH = 10_000
TRIAL_SECONDS = 2.0


@dataclass(frozen=True)
class Search:
    """Parts of the index looked into, candidates in each, and how many times k are scored again."""

    nprobes: int
    ef: int | None
    refine_factor: int

    def __str__(self) -> str:
        ef = "" if self.ef is None else f"ef {self.ef}, "
        return f"nprobes {self.nprobes}, {ef}refine_factor {self.refine_factor}"


KINDS = {
    "IVF_HNSW_SQ": (
        HnswSq(distance_type="dot"),
        [Search(1, ef, 2) for ef in (20, 32, 48, 64, 100, 144, 200, 300, 400, 600)],
    ),
    "IVF_PQ": (
        IvfPq(distance_type="dot"),
        [
            Search(nprobes, None, refine)
            for nprobes, refine in ((10, 10), (20, 10), (20, 20), (40, 20), (40, 40), (80, 60))
        ],
    ),
}


async def measure(folder: Path, data: Data, goal: float, readers: int, seconds: float) -> Outcome:
    database = await lancedb.connect_async(str(folder))
    tables = [_table(data, start) for start in range(0, data.count, BATCH)]
    tried = []
    for kind, (config, settings) in KINDS.items():
        items = await database.create_table(kind.lower(), schema=tables[0].schema)
        started = time.perf_counter()
        for table in tables:
            await items.add(table)
        last = (await _nearest(items, data.vectors[-1], None))[0]
        searchable = time.perf_counter() - started
        if last != identifier(data.count - 1):
            raise RuntimeError(f"what was stored last was not found but {last}")
        await items.optimize()
        await items.create_index("vector", config=config)
        complete = time.perf_counter() - started
        search, found = await _tune(items, data, goal, settings)
        rate = (await _load(items, data, search, readers, TRIAL_SECONDS))[1]
        print(f"    {kind}: {search}: {rate:.0f} searches/s at {found}", flush=True)
        times = (searchable, complete)
        tried.append(((found >= goal, rate), items, kind, search, found, times))
    _, items, kind, search, found, (searchable, complete) = max(tried, key=lambda each: each[0])
    await _load(items, data, search, readers, TRIAL_SECONDS)
    latencies, rate = await _load(items, data, search, readers, seconds)
    milliseconds = percentiles_ms(latencies)
    return Outcome(
        name="LanceDB",
        version=metadata.version("lancedb"),
        spoken="none: a library in the client's process",
        durability=DURABILITY,
        ingest=f"Arrow tables of {BATCH:,} rows one after another, index made afterwards",
        index=f"{kind} (defaults), {search}",
        documents=data.count,
        searchable_seconds=searchable,
        complete_seconds=complete,
        recall=found,
        per_second=rate,
        p50_ms=milliseconds["p50_ms"],
        p99_ms=milliseconds["p99_ms"],
        client_share=0.0,
    )


DURABILITY = "files written, not synced"


async def _tune(
    items: Any, data: Data, goal: float, settings: list[Search]
) -> tuple[Search, float]:
    async def recall(search: Search) -> float:
        return data.recall(
            [await _nearest(items, query, search) for query in data.queries[:SAMPLE]]
        )

    return await cheapest(settings, goal, recall)


async def _load(
    items: Any, data: Data, search: Search, readers: int, seconds: float
) -> tuple[list[float], float]:
    """Latencies in seconds, and searches a second."""
    queries = itertools.cycle(data.queries)
    latencies: list[float] = []
    started = time.perf_counter()
    ends = started + seconds

    async def ask() -> None:
        while (began := time.perf_counter()) < ends:
            await _nearest(items, next(queries), search)
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(ask() for _ in range(readers)))
    return latencies, len(latencies) / (time.perf_counter() - started)


async def _nearest(
    items: Any, vector: np.ndarray[Any, np.dtype[np.float32]], search: Search | None
) -> list[str]:
    query = items.query().nearest_to(vector).distance_type("dot").limit(K)
    if search is not None:
        query = query.nprobes(search.nprobes).refine_factor(search.refine_factor)
        if search.ef is not None:
            query = query.ef(search.ef)
    found = await query.select(["id", "text", "_distance"]).to_arrow()
    ids: list[str] = found["id"].to_pylist()
    return ids


def _table(data: Data, start: int) -> Any:
    vectors = data.vectors[start : start + BATCH]
    return pyarrow.table(
        {
            "id": [identifier(start + number) for number in range(len(vectors))],
            "text": data.texts[start : start + BATCH],
            "vector": pyarrow.FixedSizeListArray.from_arrays(
                pyarrow.array(vectors.ravel()), data.dimension
            ),
        }
    )


def main(data: str, folder: str, goal: str, readers: str, seconds: str) -> None:
    outcome = asyncio.run(
        measure(Path(folder), Data.load(Path(data)), float(goal), int(readers), float(seconds))
    )
    print(outcome.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
