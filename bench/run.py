"""What the figures of one run share: the folder, the scale, and one prepared library.

The library is prepared once, by whoever asks first: that is the ingest measurement, and search,
export and start-up go on with its folder.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import corpus, profiler, stream
from bench.connection import Connection, request
from bench.server import Server

LIBRARY = "bench"


@dataclass(frozen=True, slots=True)
class Prepared:
    """`recall_fresh` was taken at once after the stream, `recall` once the index had settled."""

    folder: Path
    documents: int
    streamed: stream.Streamed
    settle_seconds: float
    recall_fresh: float
    recall: float


class Run:
    def __init__(
        self,
        folder: Path,
        *,
        documents: int,
        lines: int,
        seconds: float,
        profile: str | None,
        gil: bool,
    ) -> None:
        self.folder = folder
        self.documents = documents
        self.lines = lines
        self.seconds = seconds
        self._profile = profile
        self._gil = gil
        self._measuring = ""
        self._prepared: Prepared | None = None

    def measuring(self, name: str) -> None:
        self._measuring = name

    @contextmanager
    def watched(self, server: Server, name: str | None = None) -> Iterator[None]:
        """The stretch of a figure that counts; profiled when that was asked for.

        `name` is the figure's, where it is not the one being measured.
        """
        if self._profile != (name or self._measuring):
            yield
            return
        path = Path("/tmp") / f"headwater-bench-{self._profile}.txt"
        with profiler.recorded(server.pid, path, gil=self._gil):
            yield

    @contextmanager
    def fresh(self, name: str) -> Iterator[Server]:
        """A server on an empty folder with an empty library, warmed by a few writes."""
        with Server(self.folder / name) as server:
            server.create_library(LIBRARY)
            warm_up(server)
            yield server

    def prepared(self) -> Prepared:
        if self._prepared is None:
            self._prepared = self._prepare()
        return self._prepared

    def _prepare(self) -> Prepared:
        body = list(stream.pieces(corpus.lines(self.documents)))
        folder = self.folder / "prepared"
        with Server(folder) as server:
            server.create_library(LIBRARY)
            warm_up(server)
            with self.watched(server, "ingest"):
                streamed = stream.send(server.port, LIBRARY, body)
            summary = streamed.summary
            if summary["created"] != self.documents or not summary["searchable"]:
                raise RuntimeError(f"not every document was created and searchable: {summary}")
            fresh = recall(server)
            settled = server.settle(LIBRARY)
            return Prepared(folder, self.documents, streamed, settled, fresh, recall(server))


def warm_up(server: Server, library: str = LIBRARY) -> None:
    """What only the first requests pay: the model, the view, the first pages of the store."""
    stream.send(server.port, library, stream.pieces(corpus.lines(200, seed=9, prefix="warm")))
    with Connection(server.port) as connection:
        path = f"/v1/libraries/{library}"
        for query in corpus.queries(50, seed=9):
            connection.json("POST", f"{path}/search", search_body(query))
        for number in range(200):
            connection.call("DELETE", f"{path}/documents/warm-{number}")


def recall(
    server: Server,
    *,
    library: str = LIBRARY,
    sample: int = 300,
    k: int = 10,
    seed: int = 5,
    filter: dict[str, Any] | None = None,
) -> float:
    """recall@k against exact search. A hit that scores as well as the exact k-th counts."""
    found = wanted = 0
    queries = corpus.queries(sample, seed=seed)
    random.Random(seed).shuffle(queries)
    path = f"/v1/libraries/{library}/search"
    with Connection(server.port) as connection:
        for query in queries:
            body = search_body(query, k=k, filter=filter)
            exact = connection.json("POST", path, {**body, "exact": True})["results"]
            quick = connection.json("POST", path, body)["results"]
            ids = {hit["chunk_id"] for hit in exact}
            least = min((hit["score"] for hit in exact), default=0.0) - 1e-6
            found += sum(hit["chunk_id"] in ids or hit["score"] >= least for hit in quick)
            wanted += len(exact)
    if not wanted:
        raise RuntimeError(f"nothing passes the filter {filter}")
    return round(found / wanted, 4)


def search_body(
    query: str, *, mode: str = "vector", k: int = 10, filter: dict[str, Any] | None = None
) -> dict[str, Any]:
    body: dict[str, Any] = {"query": query, "mode": mode, "k": k}
    if filter is not None:
        body["filter"] = filter
    return body


def search_request(library: str, body: dict[str, Any]) -> bytes:
    """A search, encoded."""
    return request("POST", f"/v1/libraries/{library}/search", msgspec.json.encode(body))


def post_document(number: int, text: str, prefix: str, library: str = LIBRARY) -> bytes:
    """A single write, encoded."""
    body = msgspec.json.encode({"id": f"{prefix}-{number}", "text": text})
    return (
        b"POST /v1/libraries/%b/documents HTTP/1.1\r\nhost: bench\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
        % (library.encode(), len(body), body)
    )
