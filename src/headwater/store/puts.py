"""Putting documents: the hot path of the store.

Works on one `PutDocuments` inside a transaction: reads what is stored under the ids once, decides
draft by draft in memory, then writes everything in a handful of many-row statements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from msgspec.structs import astuple

from headwater.errors import (
    DimensionMismatch,
    DocumentExists,
    HeadwaterError,
    InvalidInput,
    LibraryRegenerated,
    VersionMismatch,
)
from headwater.model import NOTHING, AddedVectors, Draft, Library, Pending, Span, Written
from headwater.store import schema
from headwater.store.base import PutDocuments
from headwater.store.connection import Rows, in_lists, listed
from headwater.store.records import (
    PENDING_COLUMNS,
    PENDING_STATUS,
    document_data,
    encode,
    pending_of,
)
from headwater.store.transaction import Transaction

_COLUMNS = schema.documents.columns.keys()
_NEW = Rows("documents", _COLUMNS)
_CHANGED = Rows(
    "documents",
    _COLUMNS,
    "ON CONFLICT (row) DO UPDATE SET "
    + ", ".join(
        f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("row", "library", "id")
    ),
)
_CHUNKS = Rows("chunks", schema.chunks.columns.keys())
_PENDING_COLUMNS = schema.pending.columns.keys()
_PENDING = Rows(
    "pending",
    _PENDING_COLUMNS,
    "ON CONFLICT (document) DO UPDATE SET "
    + ", ".join(
        f"{name} = excluded.{name}"
        for name in _PENDING_COLUMNS
        if name not in ("document", "library")
    ),
)


class Held:
    """A document as it stands at this moment of the command."""

    __slots__ = (
        "body_hash",
        "created_us",
        "first",
        "form",
        "id",
        "metadata",
        "num_chunks",
        "pending",
        "position",
        "row",
        "text",
        "title",
        "updated_us",
        "version",
    )

    def __init__(
        self,
        row: int,
        id: str,
        version: int,
        title: str | None,
        form: str,
        metadata: bytes,
        body_hash: bytes,
        first: int,
        num_chunks: int,
        created_us: int,
        updated_us: int,
        position: int,
        text: str | None,
    ) -> None:
        self.row = row
        self.id = id
        self.version = version
        self.title = title
        self.form = form
        self.metadata = metadata
        self.body_hash = body_hash
        self.first = first
        self.num_chunks = num_chunks
        self.created_us = created_us
        self.updated_us = updated_us
        self.position = position
        self.text = text
        self.pending: Pending | None = None

    @property
    def span(self) -> Span:
        """Its chunk rows."""
        return Span(self.first, self.num_chunks) if self.num_chunks else NOTHING

    def columns(self, library: int) -> tuple[Any, ...]:
        """In the order of the table."""
        return (
            self.row,
            library,
            self.id,
            self.version,
            self.title,
            self.form,
            self.metadata,
            self.body_hash,
            self.first,
            self.num_chunks,
            self.created_us,
            self.updated_us,
            self.position,
            self.text,
        )

    def written(self, status: Any) -> Written:
        return Written(
            self.id,
            status,
            self.version,
            self.num_chunks,
            self.created_us,
            self.updated_us,
            self.position,
            self.pending,
        )


_HELD = "row, id, " + ", ".join(name for name in _COLUMNS if name not in ("row", "library", "id"))


def held(tx: Transaction, library: int, ids: Sequence[str]) -> dict[str, Held]:
    """What is stored under those ids."""
    found: dict[str, Held] = {}
    for part in in_lists(ids):
        marks, values = listed(part)
        for row in tx.db.execute(
            f"SELECT {_HELD} FROM documents WHERE library = ? AND id IN ({marks})",
            [library, *values],
        ).fetchall():
            found[row[1]] = Held(*row)
    if found and tx.library(library).pending:
        by_row = {document.row: document for document in found.values()}
        for rows in in_lists(list(by_row)):
            marks, values = listed(rows)
            for row, *rest in tx.db.execute(
                f"SELECT document, {PENDING_COLUMNS} FROM pending WHERE document IN ({marks})",
                values,
            ).fetchall():
                by_row[row].pending = pending_of(tuple(rest))
    return found


def save(tx: Transaction, library: int, documents: Sequence[Held]) -> None:
    """Write back documents that exist already."""
    values: list[Any] = []
    for document in documents:
        values += document.columns(library)
    _CHANGED.insert(tx.db, values)


def count(tx: Transaction, library: int, documents: int, chunks: int, pending: int = 0) -> None:
    """Move the library's counters."""
    if documents or chunks or pending:
        tx.db.execute(
            "UPDATE libraries SET documents = documents + ?, chunks = chunks + ?, "
            "pending = pending + ? WHERE number = ?",
            [documents, chunks, pending, library],
        )
        tx.count_on(library, documents, chunks, pending)


def remove_chunks(tx: Transaction, spans: Sequence[Span]) -> None:
    for first, last in _ranges(spans):
        tx.db.execute("DELETE FROM chunks WHERE row BETWEEN ? AND ?", [first, last])


def put_documents(tx: Transaction, command: PutDocuments) -> list[Written | HeadwaterError]:
    library = tx.library(command.number)
    put = _Put(tx, library, command)
    results: list[Written | HeadwaterError] = []
    at = 0
    for draft in command.drafts:
        results.append(put.one(draft, at))
        at += len(draft.chunks)
    put.write()
    return results


class _Put:
    """The state of one command between its reads and its writes."""

    def __init__(self, tx: Transaction, library: Library, command: PutDocuments) -> None:
        self.tx = tx
        self.library = library
        same_generation(library, command.generation)
        drafts = command.drafts
        total = sum(len(draft.chunks) for draft in drafts)
        self.matrix = np.ascontiguousarray(command.vectors, dtype=np.float32)
        if total and self.matrix.shape[1:] != (library.dimension,):
            raise DimensionMismatch(
                f"the library takes vectors of {library.dimension} numbers, "
                f"these have shape {self.matrix.shape}"
            )
        if self.matrix.shape[0] != total:
            raise InvalidInput(
                f"{total} chunks came with {self.matrix.shape[0]} vectors; send one for each"
            )
        self.missing = command.missing
        if self.missing is not None and self.missing.chunks.shape != (total,):
            raise InvalidInput(
                f"{total} chunks came with marks of shape {self.missing.chunks.shape} for those "
                "without a vector; send one for each"
            )
        self.lacks: list[bool] = [] if self.missing is None else self.missing.chunks.tolist()
        self.bytes = self.matrix.data.cast("B") if self.matrix.size else memoryview(b"")
        self.stride = library.dimension * 4
        self.tail = b"" if command.batch_id is None else b',"batch_id":' + encode(command.batch_id)
        ids = list(dict.fromkeys(draft.id for draft in drafts))
        self.current = held(tx, library.number, ids) if ids else {}
        self.new: dict[str, Held] = {}
        self.changed: dict[str, Held] = {}
        self.chunk_values: list[Any] = []
        self.removed: list[Span] = []
        self.chunk_count = 0
        # Rows of the documents that began to wait, or wait no more; and those to be tried again.
        self.waits: dict[int, Pending | None] = {}
        self.again: list[int] = []
        self.pending_count = 0
        # Where runs of stored chunks begin: (row, index in the matrix, length).
        self.runs: list[list[int]] = []

    def one(self, draft: Draft, at: int) -> Written | HeadwaterError:
        """Decide on one draft, whose vectors begin at `at`."""
        old = self.current.get(draft.id)
        if draft.if_version is not None and (old is None or old.version != draft.if_version):
            return version_mismatch(draft.id, draft.if_version, old)
        if old is None:
            return self._add(draft, at)
        same_body = old.body_hash == draft.body_hash
        if (
            same_body
            and old.metadata == draft.metadata
            and old.title == draft.title
            and old.form == draft.form
        ):
            self._try_again(draft, at, old)
            return old.written("unchanged")
        if draft.must_be_new:
            return DocumentExists(
                f"document {draft.id!r} exists with other content; put it to replace it",
                id=draft.id,
                version=old.version,
            )
        return self._update(draft, at, old, keep=same_body)

    def _add(self, draft: Draft, at: int) -> Written:
        tx = self.tx
        row = tx.take_document()
        added = self._store_chunks(draft, at, row)
        pending = self._pending(draft, at)
        tail = PENDING_STATUS + self.tail if pending else self.tail
        data = document_data(draft.id, draft.title, added.count, 1, draft.metadata, tail)
        position = tx.change("document.added", self.library.id, draft.id, data, added)
        document = Held(
            row,
            draft.id,
            1,
            draft.title,
            draft.form,
            draft.metadata,
            draft.body_hash,
            added.first,
            added.count,
            tx.at_us,
            tx.at_us,
            position,
            draft.text,
        )
        self._mark(document, pending)
        self.current[draft.id] = self.new[draft.id] = document
        self.chunk_count += added.count
        return document.written("created")

    def _update(self, draft: Draft, at: int, old: Held, *, keep: bool) -> Written:
        tx = self.tx
        added = removed = kept = NOTHING
        if keep:
            kept = old.span
            tail = b',"chunks_kept":true' + self.tail
            self._try_again(draft, at, old)
        else:
            removed = old.span
            tail = b',"previous_num_chunks":%d%b' % (old.num_chunks, self.tail)
            if removed.count:
                self.removed.append(removed)
            added = self._store_chunks(draft, at, old.row)
            self.chunk_count += added.count - removed.count
            old.first, old.num_chunks = added.first, added.count
            old.body_hash = draft.body_hash
            self._mark(old, self._pending(draft, at))
        if old.pending:
            tail = PENDING_STATUS + tail
        old.version += 1
        old.title, old.form, old.text = draft.title, draft.form, draft.text
        old.metadata = draft.metadata
        old.updated_us = tx.at_us
        data = document_data(
            draft.id, draft.title, old.num_chunks, old.version, draft.metadata, tail
        )
        old.position = tx.change(
            "document.updated", self.library.id, draft.id, data, added, removed, kept
        )
        if draft.id not in self.new:
            self.changed[draft.id] = old
        return old.written("updated")

    def _pending(self, draft: Draft, at: int) -> Pending | None:
        missing = self.missing
        if missing is None or not any(self.lacks[at : at + len(draft.chunks)]):
            return None
        return Pending(
            self.tx.at_us,
            missing.attempts,
            missing.due_us,
            missing.code,
            missing.detail,
            missing.retryable,
        )

    def _mark(self, document: Held, pending: Pending | None) -> None:
        """Its chunks are new: do they wait for vectors? They may have before."""
        if pending or document.pending:
            self.pending_count += bool(pending) - bool(document.pending)
            document.pending = self.waits[document.row] = pending

    def _try_again(self, draft: Draft, at: int, document: Held) -> None:
        """What keeps its chunks waits on; but the embedder is at work, so not for long."""
        if document.pending and self._pending(draft, at) is None:
            self.again.append(document.row)

    def _store_chunks(self, draft: Draft, at: int, document: int) -> Span:
        chunks = draft.chunks
        if not chunks:
            return NOTHING
        row = first = self.tx.take_chunks(len(chunks))
        library, stride, values, source = (
            self.library.number,
            self.stride,
            self.chunk_values,
            self.bytes,
        )
        begin = at * stride
        lacks = self.lacks
        for ordinal, chunk in enumerate(chunks):
            values += (
                row,
                library,
                document,
                ordinal,
                chunk.start,
                chunk.end,
                chunk.metadata,
                chunk.text,
                None if lacks and lacks[at + ordinal] else source[begin : begin + stride],
            )
            row += 1
            begin += stride
        if not lacks:
            self._add_run(first, at, len(chunks))
        else:
            for ordinal in range(len(chunks)):
                if not lacks[at + ordinal]:
                    self._add_run(first + ordinal, at + ordinal, 1)
        return Span(first, len(chunks))

    def _add_run(self, first: int, at: int, length: int) -> None:
        run = self.runs[-1] if self.runs else None
        if run is not None and run[0] + run[2] == first and run[1] + run[2] == at:
            run[2] += length
        else:
            self.runs.append([first, at, length])

    def write(self) -> None:
        tx, number = self.tx, self.library.number
        values: list[Any] = []
        for document in self.new.values():
            values += document.columns(number)
        _NEW.insert(tx.db, values)
        save(tx, number, list(self.changed.values()))
        _CHUNKS.insert(tx.db, self.chunk_values)
        remove_chunks(tx, self.removed)  # after the inserts: a draft may replace one before it
        self._write_pending()
        count(tx, number, len(self.new), self.chunk_count, self.pending_count)
        for first, at, length in self.runs:
            tx.add_vectors(AddedVectors(self.library.id, first, self.matrix[at : at + length]))

    def _write_pending(self) -> None:
        tx = self.tx
        values: list[Any] = []
        for row, pending in self.waits.items():
            if pending is None:
                tx.db.execute("DELETE FROM pending WHERE document = ?", [row])
            else:
                values += (row, self.library.number, *astuple(pending))
        _PENDING.insert(tx.db, values)
        for row in self.again:
            tx.db.execute("UPDATE pending SET due_us = ? WHERE document = ?", [-tx.at_us, row])


def same_generation(library: Library, generation: int | None) -> None:
    """Raises `LibraryRegenerated` when the vectors are of another one."""
    if generation is not None and generation != library.generation:
        raise LibraryRegenerated(
            f"the vectors of library {library.name!r} were made anew meanwhile; send it again"
        )


def version_mismatch(id: str, wanted: int, old: Held | None) -> VersionMismatch:
    stands = "does not exist" if old is None else f"is at version {old.version}"
    return VersionMismatch(
        f"document {id!r} {stands}, not at {wanted}; read it again and decide anew",
        id=id,
        version=None if old is None else old.version,
    )


def _ranges(spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Neighbouring spans as one (first, last) range."""
    begin = end = 0
    for span in sorted(spans, key=lambda span: span.first):
        if not span.count:
            continue
        if span.first != end + 1 or not begin:
            if begin:
                yield begin, end
            begin = span.first
        end = span.first + span.count - 1
    if begin:
        yield begin, end
