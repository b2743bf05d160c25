"""What the contract's tests read from a store, and whether that is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from store.backend import Opened

from headwater.model import Change, Chunk, Document
from headwater.store.base import (
    Reader,
)


async def whole_log(opened: Opened) -> list[Change]:
    """All that is left of the log."""
    page = await opened.store.read(lambda reader: reader.log(reader.trimmed(), 100_000))
    return page.changes


async def is_sound(opened: Opened) -> None:
    """The store is consistent, and what it told is what the log holds, in one chain."""
    assert await opened.store.read(lambda reader: reader.check()) == []
    told = [change for committed in opened.commits for change in committed.changes]
    for committed in opened.commits:
        assert committed.after < committed.changes[0].position
        assert committed.changes[-1].position == committed.through
        rows = {added.first + i for added in committed.vectors for i in range(len(added.matrix))}
        for change in committed.changes:
            if data(change).get("status") == "pending_embedding":
                continue  # its chunks, or some of them, have no vector yet
            assert rows >= set(range(change.added.first, change.added.first + change.added.count))
    stored = {change.position: change for change in await whole_log(opened)}
    assert [stored.get(change.position, change) for change in told] == told


def documents_after(
    number: int, after_row: int, *, limit: int
) -> Callable[[Reader], list[Document]]:
    return lambda reader: reader.documents(number, after_row=after_row, limit=limit)


def chunks_of(documents: list[Document]) -> Callable[[Reader], list[list[Chunk]]]:
    return lambda reader: reader.chunks(documents, vectors=True)


async def pending_of(opened: Opened) -> list[int]:
    """How many documents are pending in the libraries that have such."""
    libraries = await opened.store.read(lambda reader: reader.libraries_pending())
    return [library.pending for library in libraries]


def data(change: Change) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(change.data)
    return loaded
