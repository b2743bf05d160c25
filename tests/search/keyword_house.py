"""A store, its log and the keyword views on it, opened and closed as a server would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search import okapi
from store.backend import draft
from store.spine import Spine, spine

from headwater.app import started
from headwater.clock import SystemClock
from headwater.model import Library
from headwater.search.keyword_views import KeywordViews
from headwater.settings import SearchSettings
from headwater.store.base import PutDocuments

QUICK = SearchSettings(snapshot_every=timedelta(milliseconds=50))


@dataclass
class KeywordHouse(Spine):
    views: KeywordViews
    folder: Path

    async def library(self, name: str = "books", language: str = "none") -> Library:
        return await self.create(name, dimension=2, language=language)

    async def put(self, library: Library, id: str, *texts: str, title: str | None = None) -> int:
        return await self.put_all(library, [(id, texts, title)])

    async def put_all(
        self, library: Library, documents: Iterable[tuple[str, Sequence[str], str | None]]
    ) -> int:
        drafts = [draft(id, *texts, title=title) for id, texts, title in documents]
        count = sum(len(one.chunks) for one in drafts)
        vectors = np.ones((count, 2), np.float32)
        written: Any = await self.store.write(PutDocuments(library.number, drafts, vectors))
        position: int = written[-1].position
        return position

    async def passages(self, library: Library) -> dict[int, tuple[str, str]]:
        texts = await self.store.read(
            lambda reader: reader.texts_after(library.number, 0, 1_000_000)
        )
        return {row: (title or "", text or "") for row, title, text in texts}

    async def found(self, library: Library, query: str, k: int = 1_000, **filter: Any) -> list[str]:
        """The texts found, best first."""
        rows, _, position = await self.views.search(library, query, k, **filter)
        assert position >= self.log.head or filter
        passages = await self.passages(library)
        return [passages[row][1] for row in rows.tolist()]

    async def agrees(self, library: Library, words: Sequence[str], k: int = 1_000) -> None:
        """The scores are those of plain BM25, which the store's texts have when nothing died."""
        passages = await self.passages(library)
        wanted = okapi.scores(passages, words)
        rows, scores, _ = await self.views.search(library, " ".join(words), k)
        assert len(rows) == min(k, len(wanted))
        assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == pytest.approx(
            {row: wanted[row] for row in rows.tolist()}, rel=1e-4
        )
        best = sorted(wanted.values(), reverse=True)[:k]
        assert scores.tolist() == pytest.approx(best, rel=1e-4)
        order = list(zip((-scores).tolist(), rows.tolist(), strict=True))
        assert order == sorted(order)

    async def is_complete(self, library: Library) -> None:
        """Every chunk of the store is in the index, and nothing else."""
        rows = await self.views.rows(library)
        assert rows.tolist() == sorted(await self.passages(library))


@asynccontextmanager
async def keyword_house(
    folder: Path, settings: SearchSettings = QUICK, *, keeps: bool = True
) -> AsyncIterator[KeywordHouse]:
    kept = folder / "keyword"
    async with spine(folder) as on:
        views = KeywordViews(kept, settings, on.log, SystemClock(), keeps=lambda: keeps)
        async with started(views.run):
            yield KeywordHouse(on.store, on.log, views, kept)
