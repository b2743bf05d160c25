"""Documents whose vectors come later: how they wait, are tried and embedded."""

from __future__ import annotations

import pytest
from store.backend import Backend, draft, embed, put, put_pending, vector
from store.reading import chunks_of, data, is_sound, pending_of, whole_log

from headwater.errors import (
    DimensionMismatch,
    InvalidInput,
    LibraryNotFound,
)
from headwater.model import Document, Pending
from headwater.store.base import (
    DeferEmbedding,
    DeleteDocument,
    PatchDocument,
    PutDocuments,
    RedriveEmbedding,
)
from headwater.store.library_commands import DeleteLibrary, SweepLibraries


class PendingContract:
    async def test_a_pending_document_is_there_and_gets_its_vectors_later(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            number = library.number
            opened.clock.us = 4_000_000_000_000_000
            results = await store.write(
                put_pending(library, draft("p", "a", "b"), draft("q", "c"), lacking=["a", "b"])
            )
            assert [(each.status, each.pending is not None) for each in results] == [
                ("created", True),
                ("created", False),
            ]
            (waiting,) = await store.read(
                lambda r: r.pending_documents(number, after_row=0, limit=9)
            )
            assert waiting.pending == Pending(
                opened.clock.us, 1, 5, "embedder_unavailable", "no answer", True
            )
            assert await store.read(lambda r: r.document(number, "p")) == waiting
            other = await store.read(lambda r: r.document(number, "q"))
            assert other is not None
            assert other.pending is None
            rows, _ = await store.read(lambda r: r.vectors_after(number, 0, 9))
            assert rows.tolist() == [other.chunks.first]
            assert await pending_of(opened) == [1]
            await is_sound(opened)

            positions = await store.write(embed(library, waiting, texts=["a", "b"]))
            done = await store.read(lambda r: r.document(number, "p"))
            assert done is not None
            assert (done.pending, done.version, done.position) == (None, 1, positions[0])
            assert done.chunks.first > other.chunks.first
            assert done.chunks.count == 2
            ((one, two),) = await store.read(chunks_of([done]))
            assert (one.text, two.text, one.metadata) == ("a", "b", b'{"page":1}')
            assert two.vector is not None
            assert two.vector.tolist() == vector("b").tolist()
            added, _, embedded = (await whole_log(opened))[1:]
            assert data(added)["status"] == "pending_embedding"
            assert embedded.type == "document.embedded"
            assert (embedded.removed, embedded.added) == (waiting.chunks, done.chunks)
            assert data(embedded) == {
                key: value for key, value in data(added).items() if key != "status"
            }
            told = opened.commits[-1].vectors
            assert [(each.first, len(each.matrix)) for each in told] == [(done.chunks.first, 2)]
            assert await pending_of(opened) == []
            assert await store.write(embed(library, waiting, texts=["a", "b"])) == [None]
            assert await store.write(embed(library, done, texts=["a", "b"])) == [None]
            await is_sound(opened)

    async def test_a_pending_document_may_have_some_vectors(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(put_pending(library, draft("p", "a", "b", "c"), lacking=["b"]))
            document = await store.read(lambda r: r.document(library.number, "p"))
            assert document is not None
            first = document.chunks.first
            rows, vectors = await store.read(lambda r: r.vectors_after(library.number, 0, 9))
            assert rows.tolist() == [first, first + 2]
            assert vectors.tolist() == [vector("a").tolist(), vector("c").tolist()]
            assert [(each.first, len(each.matrix)) for each in opened.commits[-1].vectors] == [
                (first, 1),
                (first + 2, 1),
            ]
            await is_sound(opened)

    async def test_a_pending_document_lives_on(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            number = library.number

            async def stored(id: str) -> Document:
                document = await store.read(lambda reader: reader.document(number, id))
                assert document is not None
                return document

            ids = ("patched", "replaced", "pending", "deleted")
            await store.write(put_pending(library, *(draft(id, "a") for id in ids)))
            before = {id: await stored(id) for id in ids}

            # Changed around its chunks it waits on, and the vectors still fit.
            await store.write(PatchDocument(number, "patched", title="T"))
            change = (await whole_log(opened))[-1]
            assert data(change)["status"] == "pending_embedding"
            # With a new body the old one's vectors come too late.
            (new,) = await store.write(put(library, draft("replaced", "b")))
            assert new.pending is None
            (new,) = await store.write(put_pending(library, draft("pending", "b")))
            assert new.pending is not None
            await store.write(DeleteDocument(number, "deleted"))
            assert await pending_of(opened) == [2]
            positions = await store.write(embed(library, *before.values(), texts=["a"]))
            assert [position is None for position in positions] == [False, True, True, True]
            assert (await stored("patched")).title == "T"
            assert (await stored("pending")).pending is not None
            assert await pending_of(opened) == [1]
            await is_sound(opened)

            await store.write(put_pending(library, draft("gone", "a")))
            await store.write(DeleteLibrary(number))
            assert await pending_of(opened) == []
            assert not await store.write(SweepLibraries(10))
            await is_sound(opened)

    async def test_what_is_put_again_unchanged_is_due_at_once(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            (first,) = await store.write(put_pending(library, draft("p", "a")))

            async def due_us() -> int:
                (document,) = await store.read(lambda r: r.due_documents(library.number, limit=9))
                assert document.pending is not None
                return document.pending.due_us

            (same,) = await store.write(put_pending(library, draft("p", "a")))
            assert (same.status, bool(same.pending), same.position) == (
                "unchanged",
                True,
                first.position,
            )
            assert await due_us() == 5
            (same,) = await store.write(put(library, draft("p", "a")))
            assert (same.status, bool(same.pending)) == ("unchanged", True)
            assert -opened.commits[-1].changes[0].at_us >= await due_us() > -(1 << 62)
            (retitled,) = await store.write(put_pending(library, draft("p", "a", title="T")))
            assert (retitled.status, bool(retitled.pending)) == ("updated", True)
            # What has its vectors keeps them, whatever its embedder does now.
            await store.write(put(library, draft("q", "a")))
            (kept,) = await store.write(put_pending(library, draft("q", "a", title="T")))
            assert (kept.status, bool(kept.pending)) == ("updated", False)
            await is_sound(opened)

    async def test_one_command_may_put_a_document_with_and_without_vectors(
        self, backend: Backend
    ) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            results = await store.write(
                put_pending(
                    library,
                    draft("x", "a"),
                    draft("x", "b"),
                    draft("y", "b"),
                    draft("y", "a"),
                    draft("z", "a"),
                    draft("z", "a"),
                    lacking=["a"],
                )
            )
            assert [each.pending is not None for each in results] == [
                True,
                False,
                False,
                True,
                True,
                True,
            ]
            assert await pending_of(opened) == [2]
            await is_sound(opened)

    async def test_attempts_are_counted_and_driven_anew(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            number = library.number
            assert await store.write(RedriveEmbedding(number)) == 0
            await store.write(put_pending(library, *(draft(f"d{i}", "a") for i in range(3))))
            commits = len(opened.commits)

            async def due() -> list[Document]:
                return await store.read(lambda reader: reader.due_documents(number, limit=9))

            first, *_ = await due()
            await store.write(
                DeferEmbedding(number, [first.row], 99, "embedder_failed", "no", False)
            )
            *_, last = await due()
            assert last.id == first.id
            assert last.pending is not None
            assert last.pending == Pending(
                last.pending.since_us, 2, 99, "embedder_failed", "no", False
            )
            assert await store.write(RedriveEmbedding(number)) == 3
            (driven,) = {d.pending.due_us for d in await due() if d.pending}
            assert driven < 0
            assert [d.id for d in await due()] == ["d0", "d1", "d2"]
            assert len(opened.commits) == commits
            with pytest.raises(LibraryNotFound):
                await store.write(RedriveEmbedding(10**6))
            await is_sound(opened)

    async def test_a_wrong_shape_of_vectors_embeds_nothing(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(put_pending(library, draft("p", "a")))
            document = await store.read(lambda r: r.document(library.number, "p"))
            assert document is not None
            with pytest.raises(DimensionMismatch):
                await store.write(embed(library, document, texts=["a", "b"]))
            command = put_pending(library, draft("q", "a", "b"))
            assert command.missing is not None
            with pytest.raises(InvalidInput):
                await store.write(
                    PutDocuments(
                        library.number,
                        [draft("q", "a")],
                        command.vectors[:1],
                        missing=command.missing,
                    )
                )
            assert await pending_of(opened) == [1]
            await is_sound(opened)
