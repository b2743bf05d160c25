"""What every store must keep of generations of vectors, as tests: a backend's module subclasses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from store.backend import Backend, Opened, draft, put
from store.jobs import new, submit
from store.reading import data, is_sound, whole_log

from headwater.errors import LibraryRegenerated, RegenerationRunning
from headwater.model import Library, Vectors
from headwater.store.base import DeleteDocuments, PutDocuments, Reader
from headwater.store.job_commands import CancelJob
from headwater.store.regeneration_commands import (
    BeginRegeneration,
    PutNextVectors,
    Regeneration,
    SettleVectors,
    SwitchGeneration,
)

DIMENSION = 5


async def begin(opened: Opened, library: Library, job: str = "a") -> Regeneration:
    made: Regeneration = await opened.store.write(
        BeginRegeneration(library.number, job, "other", "other:1", DIMENSION)
    )
    return made


async def rows_of(opened: Opened, library: Library) -> list[int]:
    found = await opened.store.read(lambda r: r.texts_after(library.number, 0, 1_000))
    return [row for row, _, _ in found]


async def vectors(opened: Opened, library: Library) -> dict[int, list[float]]:
    """Every way of reading them says the same."""

    def read(reader: Reader) -> dict[int, list[float]]:
        rows, matrix = reader.vectors_after(library.number, 0, 1_000)
        found = dict(zip(rows.tolist(), matrix.tolist(), strict=True))
        documents = reader.documents(library.number, after_row=0, limit=1_000)
        chunks = [chunk for own in reader.chunks(documents, vectors=True) for chunk in own]
        told = {c.row: c.vector.tolist() for c in chunks if c.vector is not None}
        assert told == found
        spans = [(one.chunks.first, one.chunks.count) for one in documents]
        again, same = reader.vectors_of(sorted(spans))
        assert dict(zip(again.tolist(), same.tolist(), strict=True)) == found
        passages = reader.passages(list(found), vectors=True)
        assert {r: np.asarray(p.vector).tolist() for r, p in passages.items()} == found
        return found

    return await opened.store.read(read)


def numbered(rows: list[int]) -> Vectors:
    return np.array([[row] * DIMENSION for row in rows], np.float32)


@pytest.mark.anyio
class RegenerationContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

    async def test_next_vectors_are_unseen_until_all_are_valid_at_once(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(
                put(library, *(draft(f"d{n}", f"one {n}", f"two {n}") for n in range(5)))
            )
            before = await vectors(opened, library)
            await submit(opened, new("a"))
            made = await begin(opened, library)
            assert (made.generation, made.state) == (1, "filling")
            assert await begin(opened, library) == made, "the job's own, however often"
            rows = await rows_of(opened, library)
            put_next = PutNextVectors(library.number, 1, rows[:8], numbered(rows[:8]), rows[8:9])
            await store.write(put_next)
            assert await vectors(opened, library) == before
            switch = SwitchGeneration(library.number, 1, rows[8], 0)
            assert await store.write(switch) == 1, "one is not embedded yet"
            assert await store.write(SwitchGeneration(library.number, 1, rows[8], 1)) == 0
            after = {row: numbered([row])[0].tolist() for row in rows[:8]}
            assert await vectors(opened, library) == after
            now = await store.read(lambda reader: reader.library(library.id))
            assert now is not None
            assert (now.embedder, now.embedder_identity, now.dimension) == (
                "other",
                "other:1",
                DIMENSION,
            )
            assert (now.generation, now.version, now.pending) == (1, 2, 1)
            (last,) = [c for c in await whole_log(opened) if c.type == "library.regenerated"]
            assert data(last)["dimension"] == DIMENSION
            await is_sound(opened)
            while await store.write(SettleVectors(3)):
                assert await vectors(opened, library) == after
                await is_sound(opened)
            assert await vectors(opened, library) == after
            await is_sound(opened)

    async def test_vectors_in_the_making_are_read_while_their_chunks_are_there(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            other = await opened.library("other")
            await store.write(put(library, *(draft(f"d{n}", f"one {n}") for n in range(6))))
            await store.write(put(other, draft("d0", "one 0")))
            await submit(opened, new("a"), new("b"))
            await begin(opened, library)
            await begin(opened, other, "b")
            rows = await rows_of(opened, library)
            await store.write(
                PutNextVectors(library.number, 1, rows[:4], numbered(rows[:4]), rows[4:5])
            )
            theirs = await rows_of(opened, other)
            await store.write(PutNextVectors(other.number, 1, theirs, numbered(theirs)))
            await store.write(DeleteDocuments(library.number, ["d1"]))
            wanted = [rows[0], rows[2], rows[3]]

            async def read(generation: int, after: int, limit: int) -> tuple[list[int], list[Any]]:
                found, matrix = await store.read(
                    lambda r: r.next_vectors_after(library.number, generation, after, limit)
                )
                return found.tolist(), matrix.tolist()

            assert await read(1, 0, 100) == (wanted, numbered(wanted).tolist())
            assert (await read(1, wanted[0], 1))[0] == wanted[1:2]
            assert (await read(1, wanted[-1], 9))[0] == (await read(2, 0, 9))[0] == []

    async def test_vectors_of_another_generation_are_refused(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            old: PutDocuments = put(library, draft("a", "text"))
            await store.write(old)
            await submit(opened, new("a"))
            await begin(opened, library)
            await store.write(SwitchGeneration(library.number, 1, 0, 10))
            stale = PutDocuments(old.number, old.drafts, old.vectors, generation=0)
            with pytest.raises(LibraryRegenerated):
                await store.write(stale)

    async def test_one_at_a_time_and_what_an_ended_job_left_is_removed(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(put(library, *(draft(f"d{n}", f"one {n}") for n in range(5))))
            await submit(opened, new("a"), new("b"))
            await begin(opened, library)
            rows = await rows_of(opened, library)
            await store.write(PutNextVectors(library.number, 1, rows, numbered(rows)))
            with pytest.raises(RegenerationRunning):
                await begin(opened, library, "b")
            assert not await store.write(SettleVectors(2)), "its job may go on"
            await store.write(CancelJob("a"))
            assert await store.write(SettleVectors(2))
            with pytest.raises(RegenerationRunning):
                await store.write(PutNextVectors(library.number, 1, rows, numbered(rows)))
            other = await begin(opened, library, "b")
            assert other.generation == 2
            while await store.write(SettleVectors(2)):
                pass
            await is_sound(opened)

    async def test_rows_of_documents_end_at_the_last(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            other = await opened.library("other")

            async def last(library: Library) -> int:
                return await store.read(lambda reader: reader.last_row(library.number))

            assert await last(library) == 0
            await store.write(put(library, draft("a", "x"), draft("b", "y")))
            await store.write(put(other, draft("c", "z")))
            found: Any = await store.read(lambda r: r.document(library.number, "b"))
            assert await last(library) == found.row < await last(other)
