"""A real store and its log, opened and closed as a server would; followers are tested on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from store.backend import create

from headwater.app import started
from headwater.changes.log import Log
from headwater.clock import SystemClock
from headwater.model import Document, Library
from headwater.settings import StoreSettings
from headwater.store.sqlite import SqliteStore


@dataclass
class Spine:
    store: SqliteStore
    log: Log

    async def create(self, name: str = "books", **fields: Any) -> Library:
        """A library as `store.backend.create` makes it, but for these fields."""
        library: Library = await self.store.write(replace(create(name), **fields))
        return library

    async def again(self, name: str = "books") -> Library:
        library = await self.store.read(lambda reader: reader.library(name))
        assert library is not None
        return library

    async def document(self, library: Library, id: str) -> Document | None:
        return await self.store.read(lambda reader: reader.document(library.number, id))


@asynccontextmanager
async def spine(folder: Path, settings: StoreSettings | None = None) -> AsyncIterator[Spine]:
    log = Log(1 << 20)
    store = SqliteStore(
        folder,
        settings or StoreSettings(),
        SystemClock(),
        on_commit=log.publish,
        on_foreign=log.hear,
    )
    async with started(store.run):
        log.attach(store, await store.read(lambda reader: reader.head()))
        yield Spine(store, log)
