"""Deleting by filter while others write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search.house import DIMENSION, House, house
from store.backend import draft

from headwater.filters import parse
from headwater.model import Library
from headwater.service.deletion import Deletions
from headwater.store.base import DeleteDocument, DeleteDocuments, PatchDocument, PutDocuments

pytestmark = pytest.mark.anyio

ENGLISH = parse({"lang": "en"})


async def filled(home: House, count: int) -> Library:
    library = await home.library()
    drafts = [draft(f"d{number}", "a", "b") for number in range(count)]
    vectors = np.ones((2 * count, DIMENSION), dtype=np.float32)
    await home.store.write(PutDocuments(library.number, drafts, vectors))
    return library


async def left(home: House, library: Library) -> list[str]:
    documents = await home.store.read(
        lambda reader: reader.documents(library.number, after_row=0, limit=10_000)
    )
    return [document.id for document in documents]


async def test_what_changes_between_look_and_delete_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as home:
        library = await filled(home, 4)
        write = home.store.write
        meanwhile: list[Any] = [
            PatchDocument(library.number, "d0", metadata={"lang": "fr"}),  # out of the filter
            PatchDocument(library.number, "d1", title="T"),  # still in it
            DeleteDocument(library.number, "d2"),
        ]

        async def others_first(command: Any) -> Any:
            if isinstance(command, DeleteDocuments):
                while meanwhile:
                    await write(meanwhile.pop())
            return await write(command)

        monkeypatch.setattr(home.store, "write", others_first)
        done = await Deletions(home.log, home.views).matching(
            library, ENGLISH, after_row=0, limit=100, dry_run=False, searchable=True
        )
        assert (done.matched, done.deleted, done.next_row) == (4, 2, None)
        assert await left(home, library) == ["d0"]
        assert done.position == home.log.head


async def test_transactions_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.service.deletion._DOCUMENTS", 3)
    monkeypatch.setattr("headwater.service.deletion._CHUNKS", 5)
    async with house(tmp_path) as home:
        library = await filled(home, 10)
        sizes: list[int] = []
        write: Callable[[Any], Any] = home.store.write

        async def watched(command: Any) -> Any:
            sizes.append(len(command.ids))
            return await write(command)

        monkeypatch.setattr(home.store, "write", watched)
        deletions = Deletions(home.log, home.views)
        done = await deletions.matching(
            library, ENGLISH, after_row=0, limit=7, dry_run=False, searchable=True
        )
        assert (done.deleted, sizes) == (7, [2, 2, 2, 1])
        await deletions.named(library, ["d7", "d8", "d9", "d9"], dry_run=False, searchable=True)
        assert sizes[4:] == [2, 1]
        assert await left(home, library) == []


async def test_huge_documents_that_are_named_go_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.service.deletion._CHUNKS", 50)
    async with house(tmp_path) as home:
        library = await home.library()
        counts = {"a": 40, "b": 60, "c": 5, "d": 45, "e": 1}
        drafts = [
            draft(id, *(str(number) for number in range(count))) for id, count in counts.items()
        ]
        vectors = np.ones((sum(counts.values()), DIMENSION), dtype=np.float32)
        await home.store.write(PutDocuments(library.number, drafts, vectors))
        named: list[list[str]] = []
        write: Callable[[Any], Any] = home.store.write

        async def watched(command: Any) -> Any:
            named.append(command.ids)
            return await write(command)

        monkeypatch.setattr(home.store, "write", watched)
        done = await Deletions(home.log, home.views).named(
            library, ["a", "nobody", "b", "c", "d", "e"], dry_run=False, searchable=True
        )
        assert named == [["a", "nobody"], ["b"], ["c", "d"], ["e"]]
        assert (done.matched, done.deleted) == (5, 5)
        assert await left(home, library) == []
