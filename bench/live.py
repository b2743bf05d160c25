"""Ten thousand live queries, and a hundred thousand alerts, while a stream comes in.

The queries stand over a few WebSockets, on a library that has documents already. A delta's delay
is from the timestamp of a document's own commit (before its sync) to the arrival of the `enter`
that shows it, in another process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import msgspec

from bench import corpus, stream
from bench.figure import Figure, percentiles_ms
from bench.run import LIBRARY, Run
from bench.server import Server
from bench.watchers import Entered, Watchers
from headwater.clock import SystemClock
from headwater.embed.static import StaticEmbedder
from headwater.search import scores
from headwater.settings import StoreSettings
from headwater.store import SqliteStore
from headwater.store.alert_commands import CreateAlert

QUERIES = 10_000
SOCKETS = 4
K = 10
RATE = 2_000
ALERTS = 100_000
ALERT_RATE = 300
THRESHOLD = 0.8
_SEND_EVERY_S = 0.05


def measure(run: Run) -> list[Figure]:
    return [*_live(run), *_alerts(run)]


def _live(run: Run) -> list[Figure]:
    run.prepared()
    with Server(run.folder / "prepared") as server:
        queries = corpus.queries(QUERIES, seed=31)
        with Watchers(server.port, LIBRARY, queries, SOCKETS, K) as watchers:
            watchers.collect()
            with run.watched(server):
                paced, delays, entered = _pace(server, watchers, run.seconds)
                body = list(stream.pieces(_documents("fast", int(RATE * run.seconds), 33)))
                began = time.perf_counter()
                stream.send(server.port, LIBRARY, body, response="errors")
                sent_seconds = time.perf_counter() - began
                fast = watchers.collect()
                seconds = max(sent_seconds, fast.at[-1] - fast.at[0] if fast.at else 0)
            told = server.get("/v1/live/statistics")
    details = {
        "queries": QUERIES,
        "sockets": SOCKETS,
        "documents_before": run.documents,
        "opened_seconds": round(watchers.opened_seconds, 1),
        "enters": len(entered.documents),
        "frames": entered.frames,
        "refills": told["refills"],
    }
    spread = percentiles_ms(delays)
    return [
        Figure(
            f"commit to delta at {RATE} documents/s, {QUERIES} live queries, p99",
            spread["p99_ms"],
            "ms",
            250,
            "at most",
            {**details, **spread, "documents_per_second": round(paced)},
        ),
        Figure(
            f"documents in while {QUERIES} live queries stand, to the last delta",
            int(RATE * run.seconds) / seconds,
            "documents/s",
            RATE,
            "at least",
            {"ingest_seconds": round(sent_seconds, 2), "enters": len(fast.documents)},
        ),
    ]


def _pace(server: Server, watchers: Watchers, seconds: float) -> tuple[float, list[float], Entered]:
    """Documents at an even rate: how many a second came in, each enter's delay, the enters."""
    after = server.get("/v1/events/statistics")["head"]
    count = int(RATE * seconds)
    pieces = _paced(_documents("paced", count, 32), RATE)
    sent = stream.send(server.port, LIBRARY, pieces, response="errors")
    entered = watchers.collect()
    committed = _commits(server, after)
    delays = [
        at - committed[document]
        for document, at in zip(entered.documents, entered.at, strict=True)
        if document in committed
    ]
    return count / sent.seconds, delays, entered


def _documents(prefix: str, count: int, seed: int) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    for number, text in enumerate(corpus.texts(count, seed=seed)):
        yield encode({"id": f"{prefix}-{number}", "text": text}) + b"\n"


def _paced(lines: Iterator[bytes], rate: int) -> Iterator[bytes]:
    """The lines as HTTP chunks, sent at that rate."""
    began = time.perf_counter()
    sent = 0
    group: list[bytes] = []
    for line in lines:
        group.append(line)
        if len(group) >= rate * _SEND_EVERY_S:
            piece = b"".join(group)
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
            sent += len(group)
            group = []
            time.sleep(max(0.0, began + sent / rate - time.perf_counter()))
    piece = b"".join(group)
    if piece:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _commits(server: Server, after: str) -> dict[str, float]:
    """When each document was committed, Unix seconds, by the log's own word."""
    found: dict[str, float] = {}
    while True:
        page = server.get(f"/v1/events?types=document.added&limit=1000&after={after}")
        for event in page["events"]:
            at = datetime.fromisoformat(event["timestamp"]).timestamp()
            found[event["data"]["document_id"]] = at
        if not page["events"]:
            return found
        after = page["cursor"]


def _alerts(run: Run) -> list[Figure]:
    folder = run.folder / "alerts"
    with Server(folder) as server:
        server.create_library(LIBRARY)
    anyio.run(_make_alerts, folder)
    began = time.perf_counter()
    with Server(folder) as server:
        _until_matched(server)
        loaded_seconds = time.perf_counter() - began
        count = int(ALERT_RATE * run.seconds)
        body = list(stream.pieces(_documents("alert", count, 34)))
        with run.watched(server):
            began = time.perf_counter()
            stream.send(server.port, LIBRARY, body, response="errors")
            _until_matched(server)
            seconds = time.perf_counter() - began
        told = server.get("/v1/live/statistics")["alerts"]
        memory = server.memory()
    return [
        Figure(
            f"documents matched with {ALERTS} alerts",
            count / seconds,
            "documents/s",
            ALERT_RATE,
            "at least",
            {
                "matches": told["told"],
                "threshold": THRESHOLD,
                "loaded_seconds": round(loaded_seconds, 1),
                "resident_mib": memory["resident"] >> 20,
            },
        )
    ]


def _until_matched(server: Server) -> None:
    while True:
        alerts = server.get("/v1/live/statistics")["alerts"]
        if alerts["running"] and not alerts["pending_positions"]:
            return
        time.sleep(0.02)


async def _make_alerts(folder: Path) -> None:
    """Put the alerts into the store of a server that does not run."""
    clock = SystemClock()
    store = SqliteStore(
        folder,
        StoreSettings(durability="normal"),
        clock,
        on_commit=lambda _: None,
        on_foreign=lambda _: None,
    )
    embedder: Any = StaticEmbedder()
    async with anyio.create_task_group() as tasks:
        await tasks.start(store.run)
        await tasks.start(embedder.run)
        library = await store.read(lambda reader: reader.library(LIBRARY))
        assert library is not None
        texts = corpus.queries(ALERTS, seed=35)
        for begin in range(0, len(texts), 2_000):
            part = texts[begin : begin + 2_000]
            vectors = scores.prepared(library.metric, await embedder.embed(part, "query"))
            async with anyio.create_task_group() as writes:
                for text, vector in zip(part, vectors, strict=True):
                    command = CreateAlert(
                        library.number,
                        clock.uuid7(),
                        None,
                        text,
                        vector,
                        THRESHOLD,
                        None,
                        b"{}",
                        ALERTS,
                    )
                    writes.start_soon(store.write, command)
        tasks.cancel_scope.cancel()
