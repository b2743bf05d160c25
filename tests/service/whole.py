"""All parts of a server in this process, over a real store, without HTTP."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from headwater.app import Parts
from headwater.clock import SystemClock
from headwater.model import Library
from headwater.search.base import KeywordEngine, MetadataEngine, SearchEngine
from headwater.service.drafts import ChunkInput, DocumentInput
from headwater.service.search import Search
from headwater.settings import SearchSettings, Settings
from headwater.threads import Pool


@asynccontextmanager
async def whole(folder: Path, **search: Any) -> AsyncIterator[Parts]:
    async with running(Settings(data=folder, search=SearchSettings(**search))) as parts:
        yield parts


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Parts]:
    parts = Parts(settings, SystemClock())
    try:
        async with parts.running():
            yield parts
    finally:
        parts.folder.release()


class Scarce:
    """A call that a process without a file to spare makes `times` times in vain."""

    def __init__(self, call: Callable[[], Any], times: int = 3) -> None:
        self._call = call
        self.left = times

    def __call__(self) -> Any:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self._call()


async def put(
    parts: Parts,
    library: Library,
    id: str,
    chunks: Sequence[tuple[str | None, Sequence[float] | None]] = (),
    metadata: dict[str, Any] | None = None,
) -> None:
    """A document of these chunks: text, vector."""
    given = [ChunkInput(text, None if vector is None else list(vector)) for text, vector in chunks]
    document = DocumentInput(id=id, chunks=given, metadata=metadata)
    await parts.documents.put(library, document, size_bytes=0)


def search_of(
    parts: Parts,
    *,
    engine: SearchEngine | None = None,
    keyword: KeywordEngine | None = None,
    metadata: MetadataEngine | None = None,
) -> Search:
    """A search of its own, with stand-ins for some views; to be run."""
    return Search(
        parts.log,
        engine or parts.engine,
        keyword or parts.keyword,
        metadata or parts.metadata,
        parts.embedders,
        SystemClock(),
        parts.settings.search,
        parts.settings.limits,
        Pool("work", 1),
    )
