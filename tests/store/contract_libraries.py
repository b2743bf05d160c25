"""Libraries: made, changed, listed, gone at once and swept later."""

from __future__ import annotations

import pytest
from store.backend import Backend, create, draft, put
from store.reading import data, is_sound, whole_log

from headwater.errors import (
    LibraryExists,
    LibraryNotFound,
)
from headwater.store.base import DeleteDocument, Reader
from headwater.store.batch_commands import BeginBatch
from headwater.store.library_commands import DeleteLibrary, SweepLibraries, UpdateLibrary


class LibraryContract:
    async def test_a_library_is_created_found_changed_and_listed(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store = opened.store
            first, second = await opened.library("a"), await opened.library("b")
            assert await store.read(lambda reader: reader.library("a")) == first
            assert await store.read(lambda reader: reader.library(second.id)) == second
            assert await store.read(lambda reader: reader.library("c")) is None
            with pytest.raises(LibraryExists):
                await store.write(create("a"))
            with pytest.raises(LibraryExists):
                await store.write(UpdateLibrary(second.number, name="a"))
            changed = await store.write(
                UpdateLibrary(first.number, name="z", description="d", metadata={"k": [1]})
            )
            assert (changed.name, changed.version, changed.metadata) == ("z", 2, {"k": [1]})
            assert await store.write(UpdateLibrary(first.number, name="z")) == changed
            listed = await store.read(lambda reader: reader.libraries(after=0, limit=1))
            assert listed == [changed]
            rest = await store.read(
                lambda reader: reader.libraries(after=listed[-1].number, limit=9)
            )
            assert rest == [second]
            types = [change.type for change in await whole_log(opened)]
            assert types == ["library.created", "library.created", "library.updated"]
            await is_sound(opened)

    async def test_an_id_wins_over_an_equal_name(self, backend: Backend) -> None:
        async with backend.open() as opened:
            first = await opened.library("a")
            await opened.library(first.id)
            assert await opened.store.read(lambda reader: reader.library(first.id)) == first

    async def test_a_deleted_library_is_gone_at_once_and_swept_later(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            number = library.number
            other = await opened.library("other")
            await store.write(put(other, draft("kept", "k")))
            await store.write(put(library, *(draft(f"d{i}", f"t{i}") for i in range(25))))
            rows, _ = await store.read(lambda reader: reader.vectors_after(number, 0, 100))
            await store.write(DeleteLibrary(number))
            change = (await whole_log(opened))[-1]
            assert data(change)["documents"] == data(change)["chunks"] == 25
            assert data(change)["name"] == "books"

            def nothing(reader: Reader) -> bool:
                return not (
                    reader.library(library.id)
                    or reader.library("books")
                    or reader.document(number, "d1")
                    or reader.documents(number, after_row=0, limit=10)
                    or reader.chunk_counts(number, ["d1"])
                    or reader.passages(rows.tolist())
                    or len(reader.vectors_after(number, 0, 10)[0])
                    or len(reader.vectors_of([(int(rows[0]), 25)])[0])
                    or number in [each.number for each in reader.libraries(after=0, limit=9)]
                )

            assert await store.read(nothing)
            for command in (
                put(library, draft("x")),
                DeleteLibrary(number),
                UpdateLibrary(number, name="n"),
                DeleteDocument(number, "d1"),
                BeginBatch(number, "b", "me"),
            ):
                with pytest.raises(LibraryNotFound):
                    await store.write(command)
            again = await opened.library("books")
            assert again.number > number
            told = len(opened.commits)
            sweeps = 0
            while await store.write(SweepLibraries(limit=10)):
                sweeps += 1
            assert sweeps == 2
            assert len(opened.commits) == told
            assert await store.read(lambda reader: reader.document(other.number, "kept"))
            await is_sound(opened)
