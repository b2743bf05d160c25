"""A store, its log and the views on it, opened and closed as a server would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
from search.brute import ranked
from store.backend import draft
from store.spine import Spine, spine

from headwater.app import started
from headwater.clock import SystemClock
from headwater.model import Change, Library, Metric, Position, Vectors
from headwater.search.base import Neighbours
from headwater.search.vector_views import LocalViews
from headwater.settings import SearchSettings
from headwater.store.base import LogPage, PutDocuments, Reader

DIMENSION = 8

TINY = SearchSettings(
    seal_rows=32,
    exact_rows=16,
    ef_search=32,
    ef_construction=32,
    settle=timedelta(milliseconds=20),
    snapshot_every=timedelta(milliseconds=50),
)


@dataclass
class House(Spine):
    views: LocalViews
    folder: Path

    async def library(self, name: str = "books", metric: Metric = "cosine") -> Library:
        return await self.create(name, dimension=DIMENSION, metric=metric)

    async def put(self, library: Library, ids: Sequence[str], matrix: Vectors) -> int:
        """One document of one chunk for each id; returns the last position."""
        drafts = [
            draft(name, f"{name} {vector.tobytes().hex()}")
            for name, vector in zip(ids, matrix, strict=True)
        ]
        written: Any = await self.store.write(PutDocuments(library.number, drafts, matrix))
        position: int = written[-1].position
        return position

    async def held(self, library: Library) -> dict[int, Vectors]:
        """What the store holds: row → vector."""

        def read(reader: Reader) -> dict[int, Vectors]:
            rows, matrix = reader.vectors_after(library.number, 0, 1_000_000)
            return dict(zip(rows.tolist(), matrix, strict=True))

        return await self.store.read(read)

    async def agrees(self, library: Library, seed: int = 0) -> None:
        """Exact search gives what brute force over the store gives."""
        held = await self.held(library)
        assert (await self.views.rows(library)).tolist() == sorted(held)
        queries = np.random.default_rng(seed).normal(size=(3, DIMENSION)).astype(np.float32)
        found = await self.views.search(library, queries, [5, 1, len(held) + 5], exact=True)
        for query, k, one in zip(queries, [5, 1, len(held) + 5], found, strict=True):
            rows, scores = ranked(library.metric, held, query, k)
            assert one.exact
            assert one.rows.tolist() == rows
            assert [float(score) for score in one.scores] == scores

    async def one(self, library: Library, query: Vectors, k: int = 5) -> Neighbours:
        (found,) = await self.views.search(library, query[None, :], [k])
        return found

    async def events(self, type: str) -> list[dict[str, Any]]:
        page = await self.store.read(lambda reader: reader.log(reader.trimmed(), 10_000))
        return [msgspec.json.decode(change.data) for change in page.changes if change.type == type]

    async def page(self, after: Position) -> LogPage:
        """What there is of the log after `after`, up to a thousand changes."""
        return await self.store.read(lambda reader: reader.log(max(after, reader.trimmed()), 1_000))

    async def hear(self, type: str) -> Change:
        """The first change of that type, as soon as it is there."""
        with anyio.fail_after(20):
            after = 0
            while True:
                page = await self.page(after)
                for change in page.changes:
                    if change.type == type:
                        return change
                after = page.through
                await self.log.bell.wait_past(after)


@asynccontextmanager
async def house(
    folder: Path, settings: SearchSettings = TINY, *, write_snapshots: bool = True
) -> AsyncIterator[House]:
    kept = folder / "views"
    async with spine(folder) as on:
        views = LocalViews(
            kept, settings, on.log, SystemClock(), write_snapshots=lambda: write_snapshots
        )
        async with started(views.run):
            yield House(on.store, on.log, views, kept)


def vectors(seed: int, count: int) -> Vectors:
    return np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)


def names(count: int, first: int = 0) -> list[str]:
    return [f"d{number}" for number in range(first, first + count)]
