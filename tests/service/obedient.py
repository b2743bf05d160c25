"""Documents that are embedded on a real store, by an embedder that does as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from heard import Heard, hearing
from store.backend import draft, put_pending, vector
from store.spine import Spine, spine

from headwater.app import started
from headwater.clock import SystemClock
from headwater.errors import (
    EmbedderFailed,
    EmbedderUnavailable,
)
from headwater.model import Document, Library, Vectors
from headwater.service.embedding import (
    DocumentEmbedding,
)
from headwater.settings import EmbedSettings, StoreSettings
from headwater.store import DataFolder

QUICK = EmbedSettings(
    write_wait=timedelta(milliseconds=50),
    pending_backoff=timedelta(milliseconds=10),
    pending_backoff_max=timedelta(milliseconds=40),
)


NEVER = EmbedSettings(
    write_wait=timedelta(milliseconds=50),
    pending_backoff=timedelta(hours=1),
    pending_backoff_max=timedelta(hours=1),
)


class Obedient:
    """Embeds, unless `rule` says otherwise for these texts. `asked` is what it was given."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.rule: Callable[[list[str]], BaseException | None] = lambda texts: None
        self.gate: anyio.Event | None = None
        self.told = anyio.Event()

    async def embed(self, texts: Sequence[str], kind: str = "document") -> Vectors:
        self.asked.append(list(texts))
        self.told.set()
        self.told = anyio.Event()
        if self.gate is not None:
            await self.gate.wait()
        error = self.rule(list(texts))
        if error is not None:
            raise error
        return np.stack([vector(text) for text in texts])

    async def times(self, count: int) -> None:
        """Return when it has been asked so often."""
        with anyio.fail_after(30):
            while len(self.asked) < count:
                await self.told.wait()


class Obedients:
    """One for each library."""

    def __init__(self) -> None:
        self._by_name: dict[str, Obedient] = {}

    def bound(self, library: Library) -> Obedient:
        return self._by_name.setdefault(library.name, Obedient())


@dataclass
class House(Spine):
    embedding: DocumentEmbedding
    heard: Heard
    embedders: Obedients

    def bound(self, library: Library) -> Obedient:
        return self.embedders.bound(library)

    async def library(self, name: str = "books") -> Library:
        return await self.create(name)

    async def put(self, library: Library, *ids: str) -> None:
        """Pending documents whose one chunk has the text of their id."""
        await self.store.write(put_pending(library, *(draft(id, id) for id in ids)))
        self.embedding.wake()

    async def left(self, library: Library) -> dict[str, Document]:
        found = await self.store.read(
            lambda reader: reader.pending_documents(library.number, after_row=0, limit=1_000)
        )
        return {document.id: document for document in found}

    async def come_to(self, library: Library, ids: set[str]) -> dict[str, Document]:
        """Return when `ids` are what is left."""
        return await self.until(library, lambda left: left.keys() == ids)

    async def until(
        self, library: Library, condition: Callable[[dict[str, Document]], bool]
    ) -> dict[str, Document]:
        """Return as soon as what is left meets `condition`; each attempt is logged."""
        left: dict[str, Document] = {}

        async def met() -> bool:
            nonlocal left
            left = await self.left(library)
            return condition(left)

        await self.heard.until(met)
        return left

    async def embedded(self) -> list[str | None]:
        page = await self.store.read(
            lambda reader: reader.log(0, 10_000, types={"document.embedded"})
        )
        return [change.subject for change in page.changes]


@asynccontextmanager
async def opened(
    folder: Path, settings: EmbedSettings = QUICK, run: bool = True
) -> AsyncIterator[House]:
    data = DataFolder(folder)
    data.claim()
    embedders = Obedients()
    bound: Any = embedders
    with hearing() as heard:
        async with spine(folder, StoreSettings(durability="normal")) as on:
            embedding = DocumentEmbedding(
                on.log, data, bound, SystemClock(), settings, jitter=lambda: 1.0
            )
            house = House(on.store, on.log, embedding, heard, embedders)
            if run:
                async with started(embedding.run):
                    yield house
            else:
                yield house
    data.release()


def down(texts: list[str]) -> BaseException | None:
    return EmbedderUnavailable("it is down")


def refusing(*bad: str) -> Callable[[list[str]], BaseException | None]:
    def rule(texts: list[str]) -> BaseException | None:
        return EmbedderFailed("a text is not valid") if set(texts) & set(bad) else None

    return rule
