"""Documents and their chunks: put, changed, read in pages, deleted."""

from __future__ import annotations

import numpy as np
import pytest
from store.backend import Backend, draft, put, vector
from store.reading import chunks_of, data, documents_after, is_sound, whole_log

from headwater.errors import (
    DimensionMismatch,
    DocumentExists,
    DocumentNotFound,
    LibraryNotFound,
    VersionMismatch,
)
from headwater.model import NOTHING, Span
from headwater.store.base import DeleteDocument, DeleteDocuments, PatchDocument, TrimLog
from headwater.store.library_commands import DeleteLibrary


class DocumentContract:
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
            asked: list[tuple[int, bytes]] = []

            def still(row: int, metadata: bytes) -> bool:
                asked.append((row, metadata))
                return False

            unless = DeleteDocuments(library.number, ["kept"], [written[3].position], still)
            assert await store.write(unless) == [None]
            assert asked == [(left[0].row, b'{"lang":"en"}')]
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
            bare = await store.read(lambda reader: reader.passages(rows.tolist(), texts=False))
            assert {(one.text, one.vector) for one in bare.values()} == {(None, None)}
            assert [bare[row].document_id for row in bare] == [
                passages[row].document_id for row in bare
            ]
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
            await store.write(put(library, draft("d6", "a", "b"), draft("d7")))
            counts = await store.read(
                lambda reader: reader.chunk_counts(number, ["d5", "d6", "d7", "nobody"])
            )
            assert counts == {"d5": 1, "d6": 2, "d7": 0}
            ((chunk,),) = await store.read(lambda r: r.chunks(changed, vectors=True))
            assert chunk.vector is not None
            assert chunk.vector.tolist() == vector("new").tolist()
