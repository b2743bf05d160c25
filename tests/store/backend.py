"""What the contract suite needs of a backend, and drafts to put into it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import numpy as np

from headwater.clock import SystemClock
from headwater.model import Committed, Document, Draft, DraftChunk, Library, Position, Vectors
from headwater.store.base import (
    Embedding,
    EmbedDocuments,
    Missing,
    OnCommit,
    OnForeign,
    PutDocuments,
    Store,
)
from headwater.store.library_commands import CreateLibrary

DIMENSION = 4


class HandClock(SystemClock):
    """The machine's clock until `us` is set."""

    us: int | None = None

    def now_us(self) -> int:
        return super().now_us() if self.us is None else self.us


@dataclass
class Opened:
    """A running store and what it has told."""

    store: Store
    clock: HandClock
    commits: list[Committed] = field(default_factory=list)
    foreign: list[Position] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    told: anyio.Event = field(default_factory=anyio.Event)  # of a foreign commit

    async def library(self, name: str = "books") -> Library:
        library: Library = await self.store.write(create(name))
        return library


class Backend(ABC):
    """One place that outlives the stores opened on it."""

    @abstractmethod
    def store(self, clock: HandClock, on_commit: OnCommit, on_foreign: OnForeign) -> Store: ...

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Opened]:
        clock = HandClock()

        def on_commit(committed: Committed) -> None:
            opened.commits.append(committed)
            opened.heard.append(f"commit {committed.through}")

        def on_foreign(head: Position) -> None:
            opened.foreign.append(head)
            opened.heard.append(f"foreign {head}")
            opened.told.set()

        store = self.store(clock, on_commit, on_foreign)
        opened = Opened(store, clock)
        async with anyio.create_task_group() as group:
            await group.start(store.run)
            yield opened
            group.cancel_scope.cancel()


def create(name: str) -> CreateLibrary:
    return CreateLibrary(
        id=SystemClock().uuid7(),
        name=name,
        description=None,
        embedder="none",
        embedder_identity="none",
        dimension=DIMENSION,
        metric="cosine",
        chunk_size=1000,
        chunk_overlap=100,
        metadata={"shelf": 1},
    )


def draft(
    id: str,
    *bodies: str,
    title: str | None = None,
    metadata: bytes = b'{"lang":"en"}',
    must_be_new: bool = False,
    if_version: int | None = None,
) -> Draft:
    """A document of form `texts`, a chunk per body."""
    return Draft(
        id=id,
        title=title,
        form="texts",
        text=None,
        metadata=metadata,
        body_hash=hashlib.sha256("\0".join(bodies).encode()).digest(),
        chunks=tuple(DraftChunk(body, metadata=b'{"page":1}') for body in bodies),
        must_be_new=must_be_new,
        if_version=if_version,
    )


def vector(body: str) -> Vectors:
    """A vector that only depends on the text, so that a chunk and its vector can be matched."""
    return np.frombuffer(hashlib.sha256(body.encode()).digest()[:DIMENSION], np.uint8).astype(
        np.float32
    )


def put(library: Library | int, *drafts: Draft, batch_id: str | None = None) -> PutDocuments:
    number = library if isinstance(library, int) else library.number
    bodies: Sequence[str] = [chunk.text or "" for draft in drafts for chunk in draft.chunks]
    vectors = np.stack([vector(body) for body in bodies]) if bodies else np.empty((0, DIMENSION))
    return PutDocuments(number, drafts, vectors.astype(np.float32), batch_id)


def put_pending(
    library: Library | int, *drafts: Draft, lacking: Sequence[str] | None = None
) -> PutDocuments:
    """Without the vectors of the chunks that have a text of `lacking`; of all when None."""
    command = put(library, *drafts)
    texts = [chunk.text for draft in drafts for chunk in draft.chunks]
    marks = np.array([lacking is None or text in lacking for text in texts], dtype=np.bool_)
    vectors = command.vectors.copy()
    vectors[marks] = -1  # must never be seen again
    missing = Missing(marks, 1, 5, "embedder_unavailable", "no answer", True)
    return PutDocuments(command.number, drafts, vectors, missing=missing)


def embed(library: Library | int, *documents: Document, texts: Sequence[str]) -> EmbedDocuments:
    """The vectors of documents that all have the chunks `texts`."""
    number = library if isinstance(library, int) else library.number
    matrix = np.stack([vector(text) for text in texts])
    return EmbedDocuments(number, [Embedding(d.id, d.chunks, matrix) for d in documents])
