"""The store contract as tests: a backend's test module subclasses `StoreContract`.

Nothing here knows which database is behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import numpy as np
import pytest
from store.backend import Backend, Opened, create, draft, embed, put, put_pending, vector

from headwater.errors import (
    CursorExpired,
    DimensionMismatch,
    DocumentExists,
    DocumentNotFound,
    HeadwaterError,
    InvalidInput,
    LibraryExists,
    LibraryNotFound,
    ShuttingDown,
    VersionMismatch,
)
from headwater.model import NOTHING, Change, Chunk, Document, Pending, Span
from headwater.store.base import (
    Announce,
    BeginBatch,
    DeferEmbedding,
    DeleteDocument,
    DeleteDocuments,
    DeleteLibrary,
    EndBatch,
    FailOpenBatches,
    PatchDocument,
    PutDocuments,
    Reader,
    RedriveEmbedding,
    SweepLibraries,
    TrimLog,
    UpdateLibrary,
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


@pytest.mark.anyio
class StoreContract:
    @pytest.fixture
    def backend(self) -> Backend:
        raise NotImplementedError

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

    async def test_many_documents_are_deleted_each_with_its_change(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            written = await store.write(
                put(library, draft("x", "a", "b"), draft("y"), draft("z", "c"), draft("kept", "d"))
            )
            first = len(await whole_log(opened))
            done = await store.write(
                DeleteDocuments(library.number, ["z", "nobody", "x", "z", "y"])
            )
            assert [position is not None for position in done] == [True, False, True, False, True]
            changes = (await whole_log(opened))[first:]
            assert [(change.type, change.subject) for change in changes] == [
                ("document.deleted", name) for name in "zxy"
            ]
            assert [change.position for change in changes] == [done[0], done[2], done[4]]
            assert [change.removed.count for change in changes] == [1, 2, 0]
            assert data(changes[1])["metadata"] == {"lang": "en"}
            left = await store.read(documents_after(library.number, 0, limit=9))
            assert [document.id for document in left] == ["kept"]
            now = await store.read(lambda reader: reader.library("books"))
            assert now is not None
            assert (now.documents, now.chunks) == (1, 1)
            # One that has changed since it was looked at stays.
            await store.write(PatchDocument(library.number, "kept", title="T"))
            stale = DeleteDocuments(library.number, ["kept"], [written[3].position])
            assert await store.write(stale) == [None]
            (kept,) = await store.read(
                lambda reader: reader.described(library.number, after_row=0, limit=9)
            )
            fresh = DeleteDocuments(library.number, ["kept"], [kept.position])
            assert await store.write(fresh) != [None]
            assert await store.write(DeleteDocuments(library.number, [])) == []
            with pytest.raises(LibraryNotFound):
                await store.write(DeleteDocuments(10_000, ["x"]))
            await is_sound(opened)

    async def test_what_filters_look_at(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            other = await opened.library("other")
            await store.write(put(library, draft("x", "a", "b"), draft("y", metadata=b"{}")))
            await store.write(put(other, draft("z", "c")))
            x, y = await store.read(
                lambda reader: reader.described(library.number, after_row=0, limit=9)
            )
            assert (x.id, x.metadata, x.chunks.count) == ("x", b'{"lang":"en"}', 2)
            assert (y.id, y.metadata, y.chunks) == ("y", b"{}", NOTHING)
            assert x.row < y.row
            rest = await store.read(
                lambda reader: reader.described(library.number, after_row=x.row, limit=9)
            )
            assert rest == [y]
            first = x.chunks.first
            found = await store.read(
                lambda reader: reader.chunk_metadata([x.chunks, y.chunks, Span(first + 1, 1)])
            )
            assert found == {first: b'{"page":1}', first + 1: b'{"page":1}'}
            await store.write(DeleteLibrary(library.number))
            assert await store.read(lambda reader: reader.chunk_metadata([x.chunks])) == {}
            gone = await store.read(
                lambda reader: reader.described(library.number, after_row=0, limit=9)
            )
            assert gone == []

    async def test_an_id_wins_over_an_equal_name(self, backend: Backend) -> None:
        async with backend.open() as opened:
            first = await opened.library("a")
            await opened.library(first.id)
            assert await opened.store.read(lambda reader: reader.library(first.id)) == first

    async def test_put_creates_updates_and_leaves_equal_documents(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            (one,) = await store.write(put(library, draft("x", "a", "b"), batch_id="b1"))
            assert (one.status, one.version, one.num_chunks) == ("created", 1, 2)
            (same,) = await store.write(put(library, draft("x", "a", "b")))
            assert (same.status, same.position) == ("unchanged", one.position)
            (kept,) = await store.write(put(library, draft("x", "a", "b", title="T")))
            assert (kept.status, kept.version) == ("updated", 2)
            (new,) = await store.write(put(library, draft("x", "c", title="T")))
            assert (new.status, new.version, new.num_chunks) == ("updated", 3, 1)
            assert new.created_us == one.created_us <= new.updated_us
            added, kept_change, replaced = (await whole_log(opened))[1:]
            assert data(added) == {
                "document_id": "x",
                "title": None,
                "num_chunks": 2,
                "version": 1,
                "metadata": {"lang": "en"},
                "batch_id": "b1",
            }
            assert data(kept_change)["chunks_kept"] is True
            assert (kept_change.added, kept_change.removed) == (NOTHING, NOTHING)
            assert kept_change.kept == added.added
            assert data(replaced)["previous_num_chunks"] == 2
            assert replaced.removed == added.added
            assert (added.added.count, replaced.added.count) == (2, 1)
            document = await store.read(lambda reader: reader.document(library.number, "x"))
            assert document is not None
            assert (document.version, document.chunks, document.position) == (
                3,
                replaced.added,
                replaced.position,
            )
            now = await store.read(lambda reader: reader.library(library.id))
            assert now is not None
            assert (now.documents, now.chunks, now.version) == (1, 1, 1)
            await is_sound(opened)

    async def test_drafts_with_one_id_see_those_before_them(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            written = await store.write(
                put(
                    library,
                    draft("x", "a"),
                    draft("y"),
                    draft("x", "b", "c"),
                    draft("x", "b", "c"),
                    draft("x", "d", if_version=1),
                    draft("x", "d", if_version=2),
                    draft("z", "e", must_be_new=True),
                    draft("z", "e", must_be_new=True),
                    draft("z", "f", must_be_new=True),
                    draft("w", "f", if_version=1),
                )
            )
            assert [getattr(result, "status", type(result)) for result in written] == [
                "created",
                "created",
                "updated",
                "unchanged",
                VersionMismatch,
                "updated",
                "created",
                "unchanged",
                DocumentExists,
                VersionMismatch,
            ]
            rows, matrix = await store.read(
                lambda reader: reader.vectors_after(library.number, 0, 100)
            )
            assert matrix.tolist() == [vector("d").tolist(), vector("e").tolist()]
            assert len(rows) == 2
            await is_sound(opened)

    async def test_vectors_told_are_the_vectors_stored(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(put(library, draft("b", "2")))
            await store.write(
                put(library, draft("a", "1", "1b"), draft("b", "2"), draft("c", "3", "4"))
            )
            spans = [(a.first, len(a.matrix)) for c in opened.commits for a in c.vectors]
            told = np.vstack([a.matrix for c in opened.commits for a in c.vectors])
            rows, matrix = await store.read(lambda reader: reader.vectors_of(spans))
            assert np.array_equal(told, matrix)
            assert rows.tolist() == [row for f, n in spans for row in range(f, f + n)]
            passages = await store.read(
                lambda reader: reader.passages([*rows.tolist(), 10**9], vectors=True)
            )
            assert list(passages) == rows.tolist()
            for passage in passages.values():
                assert passage.vector is not None
                assert passage.vector.tolist() == vector(passage.text or "").tolist()
                assert passage.chunk_metadata == b'{"page":1}'
            assert [p.document_id for p in passages.values()] == ["b", "a", "a", "c", "c"]
            owners = await store.read(lambda reader: reader.chunk_owners([*rows.tolist(), 10**9]))
            assert sorted(owners) == rows.tolist()
            assert {own for _, own in owners.values()} == {b'{"page":1}'}
            by_document = [owners[row][0] for row in rows.tolist()]
            assert by_document[1] == by_document[2] != by_document[3] == by_document[4]

    async def test_texts_come_by_rising_row_with_their_titles(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            other = await opened.library("other")
            await store.write(
                put(library, draft("a", "one", "two", title="A"), draft("b", "three"))
            )
            await store.write(put(other, draft("x", "not this")))
            await store.write(put(library, draft("c", "four", title="C"), draft("b", "new")))
            await store.write(PatchDocument(library.number, "a", title="A2"))
            number = library.number
            texts = await store.read(lambda reader: reader.texts_after(number, 0, 10))
            assert [(title, text) for _, title, text in texts] == [
                ("A2", "one"),
                ("A2", "two"),
                ("C", "four"),
                (None, "new"),
            ]
            rows = [row for row, _, _ in texts]
            assert rows == sorted(rows)
            page = await store.read(lambda reader: reader.texts_after(number, rows[0], 2))
            assert page == texts[1:3]
            await store.write(DeleteLibrary(number))
            assert await store.read(lambda reader: reader.texts_after(number, 0, 10)) == []

    async def test_vectors_of_wrong_shape_are_refused_whole(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            command = put(library, draft("x", "a"))
            wrong = type(command)(command.number, command.drafts, np.zeros((1, 3), np.float32))
            with pytest.raises(DimensionMismatch):
                await opened.store.write(wrong)
            assert len(await whole_log(opened)) == 1

    async def test_patch_merges_metadata_and_keeps_chunks(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            number = library.number
            await store.write(put(library, draft("x", "a", metadata=b'{"a":1,"b":{"c":1,"d":2}}')))
            patch = PatchDocument(number, "x", metadata={"a": None, "b": {"c": 3}, "e": 4})
            written = await store.write(patch)
            assert (written.status, written.version) == ("updated", 2)
            document = await store.read(lambda reader: reader.document(number, "x"))
            assert document is not None
            assert document.metadata == b'{"b":{"c":3,"d":2},"e":4}'
            assert (await store.write(patch)).status == "unchanged"
            assert (await store.write(PatchDocument(number, "x", title="T"))).version == 3
            with pytest.raises(VersionMismatch):
                await store.write(PatchDocument(number, "x", title="U", if_version=2))
            with pytest.raises(DocumentNotFound):
                await store.write(PatchDocument(number, "y", title="U"))
            assert data((await whole_log(opened))[-1])["chunks_kept"] is True
            await is_sound(opened)

    async def test_delete_tells_what_was_there(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(put(library, draft("x", "a", "b", title="T"), draft("y", "c")))
            with pytest.raises(VersionMismatch):
                await store.write(DeleteDocument(library.number, "x", if_version=2))
            position = await store.write(DeleteDocument(library.number, "x", if_version=1))
            change = (await whole_log(opened))[-1]
            assert (change.position, change.type) == (position, "document.deleted")
            assert change.removed.count == 2
            assert data(change) == {
                "document_id": "x",
                "title": "T",
                "num_chunks": 2,
                "version": 1,
                "metadata": {"lang": "en"},
            }
            with pytest.raises(DocumentNotFound):
                await store.write(DeleteDocument(library.number, "x"))
            now = await store.read(lambda reader: reader.library(library.id))
            assert now is not None
            assert (now.documents, now.chunks) == (1, 1)
            await is_sound(opened)

    async def test_keys_of_removed_things_are_never_used_again(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            await opened.store.write(put(library, draft("x", "a", "b")))
            gone = await opened.store.read(lambda reader: reader.document(library.number, "x"))
            await opened.store.write(DeleteDocument(library.number, "x"))
        assert gone is not None
        async with backend.open() as opened:
            head = await opened.store.read(lambda reader: reader.head())
            await opened.store.write(TrimLog(before_us=1 << 60, keep=0, limit=1000))
            (written,) = await opened.store.write(put(library, draft("x", "a")))
            new = await opened.store.read(lambda reader: reader.document(library.number, "x"))
            assert new is not None
            assert new.row > gone.row
            assert new.chunks.first >= gone.chunks.first + gone.chunks.count
            assert written.position > head
            await is_sound(opened)

    async def test_documents_are_paged_by_row(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            number = library.number
            await store.write(put(library, *(draft(f"d{i}", f"t{i}", f"u{i}") for i in range(700))))
            seen, after = [], 0
            while page := await store.read(documents_after(number, after, limit=256)):
                chunks = await store.read(chunks_of(page))
                assert [[chunk.text for chunk in each] for each in chunks] == [
                    [f"t{d.id[1:]}", f"u{d.id[1:]}"] for d in page
                ]
                seen += [document.id for document in page]
                after = page[-1].row
            assert seen == [f"d{i}" for i in range(700)]
            head = await store.read(lambda reader: reader.head())
            await store.write(put(library, draft("d5", "new")))
            changed = await store.read(
                lambda reader: reader.documents(
                    number, after_row=0, through_row=after, changed_after=head, limit=10
                )
            )
            assert [document.id for document in changed] == ["d5"]
            ids = {f"d{i}" for i in range(650)} | {"nobody"}
            assert len(await store.read(lambda r: r.documents_by_id(number, ids))) == 650
            hashes = await store.read(lambda reader: reader.body_hashes(number, ["d5", "nobody"]))
            assert hashes == {"d5": draft("d5", "new").body_hash}
            ((chunk,),) = await store.read(lambda r: r.chunks(changed, vectors=True))
            assert chunk.vector is not None
            assert chunk.vector.tolist() == vector("new").tolist()

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
                    or reader.body_hashes(number, ["d1"])
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

    async def test_batches_end_once_and_those_left_open_fail(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(BeginBatch(library.number, "one", "gone"))
            await store.write(BeginBatch(library.number, "two", "here"))
            await store.write(BeginBatch(library.number, "three", "gone"))
            end = await store.write(EndBatch("one", {"received": 3}))
            assert await store.write(EndBatch("one", {"received": 3})) == end
            await store.write(EndBatch("two", {"received": 1}, error="cut"))
        async with backend.open() as opened:
            assert await opened.store.write(FailOpenBatches("the server ended", {"here"})) == 1
            assert await opened.store.write(FailOpenBatches("the server ended", {"here"})) == 0
            told = [(change.type, data(change)) for change in await whole_log(opened)][1:]
            assert told == [
                ("batch.started", {"batch_id": "one"}),
                ("batch.started", {"batch_id": "two"}),
                ("batch.started", {"batch_id": "three"}),
                ("batch.completed", {"batch_id": "one", "received": 3}),
                ("batch.failed", {"batch_id": "two", "received": 1, "error": "cut"}),
                ("batch.failed", {"batch_id": "three", "error": "the server ended"}),
            ]

    async def test_the_log_is_filtered_and_says_how_far_it_looked(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, a, b = opened.store, await opened.library("a"), await opened.library("b")
            for i in range(10):
                await store.write(put(a if i % 2 else b, draft(f"d{i}", "t")))
            await store.write(Announce("index.rebuilt", a.id, {"why": "asked"}))
            head = await store.read(lambda reader: reader.head())
            page = await store.read(lambda r: r.log(0, 3, library_ids={a.id}))
            assert [change.library_id for change in page.changes] == [a.id] * 3
            assert page.through == page.changes[-1].position < head
            page = await store.read(
                lambda r: r.log(0, 100, library_ids={b.id}, types={"document.added"})
            )
            assert len(page.changes) == 5
            assert page.through == head
            page = await store.read(lambda r: r.log(0, 100, types={"document.deleted"}))
            assert (page.changes, page.through) == ([], head)
            page = await store.read(lambda r: r.log(head, 100))
            assert (page.changes, page.through) == ([], head)
            (last,) = (await store.read(lambda r: r.log(head - 1, 100))).changes
            assert (last.type, data(last)) == ("index.rebuilt", {"why": "asked"})

    async def test_resume_after_trim_reports_the_trim_point(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, clock = opened.store, opened.clock
            clock.us = 1_000
            library = await opened.library()
            for i in range(9):
                clock.us = (i + 2) * 1_000
                await store.write(put(library, draft(f"d{i}", "t")))
            assert await store.read(lambda r: r.position_at(5_000)) == 4
            assert await store.write(TrimLog(before_us=3_001, keep=1000, limit=2)) == 2
            assert await store.write(TrimLog(before_us=3_001, keep=1000, limit=99)) == 3
            assert await store.write(TrimLog(before_us=0, keep=5, limit=99)) == 5
            assert await store.read(lambda r: r.trimmed()) == 5
            assert await store.read(lambda r: r.position_at(0)) == 5
            with pytest.raises(CursorExpired):
                await store.read(lambda r: r.log(4, 10))
            assert len(await whole_log(opened)) == 5
            assert await store.write(TrimLog(before_us=1 << 60, keep=0, limit=99)) == 9
            assert await store.read(lambda r: r.head()) == 10
            assert await store.read(lambda r: r.check()) == []

    async def test_the_logs_time_never_goes_back(self, backend: Backend) -> None:
        async with backend.open() as opened:
            opened.clock.us = 5_000
            library = await opened.library()
            opened.clock.us = 4_000
            await opened.store.write(put(library, draft("x")))
            assert [change.at_us for change in await whole_log(opened)] == [5_000, 5_000]

    async def test_a_failing_command_leaves_its_neighbours_alone(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            outcomes: dict[int, object] = {}

            async def write(i: int) -> None:
                try:
                    commands = (put(library, draft(f"d{i}", "t")), create("books"))
                    outcomes[i] = await store.write(commands[i % 3 == 1])
                except HeadwaterError as error:
                    outcomes[i] = error

            async with anyio.create_task_group() as group:
                for i in range(30):
                    group.start_soon(write, i)
            failed = {i for i, outcome in outcomes.items() if isinstance(outcome, LibraryExists)}
            assert failed == set(range(1, 30, 3))
            now = await store.read(lambda reader: reader.library(library.id))
            assert now is not None
            assert now.documents == 20
            await is_sound(opened)

    async def test_a_commit_is_told_before_its_writer_hears(self, backend: Backend) -> None:
        async with backend.open() as opened:
            library = await opened.library()
            for i in range(20):
                (written,) = await opened.store.write(put(library, draft(f"d{i}", "t")))
                assert opened.commits[-1].through >= written.position

    async def test_a_snapshot_stays_where_it_is(self, backend: Backend) -> None:
        async with backend.open() as opened:
            store, library = opened.store, await opened.library()
            await store.write(put(library, draft("x", "old")))
            async with store.snapshot() as snapshot:
                await store.write(put(library, draft("x", "new"), draft("y", "new")))
                await store.write(DeleteLibrary(library.number))
                documents = await snapshot.read(
                    lambda reader: reader.documents(library.number, after_row=0, limit=9)
                )
                ((chunk,),) = await snapshot.read(lambda reader: reader.chunks(documents))
                assert (len(documents), chunk.text) == (1, "old")
                assert snapshot.position == documents[0].position
                assert await snapshot.read(lambda r: r.head()) == snapshot.position
            assert await store.read(lambda r: r.library(library.id)) is None

    async def test_a_lanes_reader_sees_what_is_committed(self, backend: Backend) -> None:
        async with backend.open() as opened:
            run = opened.store.open_reader()
            library = await opened.library()
            found = await anyio.to_thread.run_sync(run, lambda r: r.library("books"))
            assert found == library
            await opened.store.write(DeleteLibrary(library.number))
            assert await anyio.to_thread.run_sync(run, lambda r: r.library("books")) is None

    async def test_everything_is_there_after_reopening(self, backend: Backend) -> None:
        async with backend.open() as opened:
            log_id, library = opened.store.log_id, await opened.library()
            await opened.store.write(put(library, draft("x", "a")))
            before = await whole_log(opened)
            store = opened.store
        with pytest.raises(ShuttingDown):
            await store.write(create("late"))
        async with backend.open() as opened:
            assert opened.store.log_id == log_id
            assert await whole_log(opened) == before
            await opened.store.write(put(library, draft("x", "b")))
            assert opened.commits[0].after == before[-1].position
            new = await opened.store.restore_identity()
            assert new != log_id
        async with backend.open() as opened:
            assert opened.store.log_id == new
            assert opened.foreign == []
            await is_sound(opened)

    async def test_check_finds_nothing_in_a_new_store(self, backend: Backend) -> None:
        async with backend.open() as opened:
            assert await opened.store.read(lambda reader: reader.check()) == []
            assert await opened.store.read(lambda reader: reader.head()) == 0
            assert await opened.store.read(lambda reader: reader.position_at(1 << 60)) == 0
